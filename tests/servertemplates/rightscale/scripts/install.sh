#!/bin/bash -e

# ---
# RightScript Name: Install the shop
# Description: >
#   Installs Apache and the shop,
#   then starts both.
# Inputs:
#   APACHE_MPM:
#     Category: Application
#     Description: Worker model
#     Input Type: single
#     Required: true
#     Advanced: false
#     Default: text:worker
#     Possible Values:
#     - text:worker
#     - text:prefork
#   DB_PASSWORD:
#     Category: Database
#     Input Type: single
#     Required: true
#     Advanced: false
#   DB_HOST:
#     Category: Database
#     Input Type: single
#     Required: true
#     Advanced: false
#   DEPLOY_KEY:
#     Category: Application
#     Input Type: single
#     Required: true
#     Advanced: false
#   INSTANCE_UUID:
#     Category: RightScale
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: env:RS_INSTANCE_UUID
#   MIRRORS:
#     Category: Application
#     Input Type: array
#     Required: false
#     Advanced: true
#     Default: array:["text:mirror-0"]
#   BANNER:
#     Category: Application
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
# Packages: apache2 libapache2-mod-php
# Attachments:
# - shop.tar.gz
# ...
#

tar xf "$RS_ATTACH_DIR/shop.tar.gz" -C /srv
rsc --rl10 cm15 multi_add /api/tags/multi_add resource_hrefs[]=$RS_SELF_HREF
echo "done"
