#! /usr/bin/sudo /bin/bash
# ---
# RightScript Name: SYS Timezone set
# Description: Sets the time zone
# Inputs:
#   TIMEZONE:
#     Category: System
#     Description: 'Zone to use, for example: UTC'
#     Input Type: single
#     Required: no
#     Advanced: true
#     Default: text:UTC
#     Possible Values: ["text:UTC", "text:Europe/Berlin", "text:US/Pacific"]
# Attachments: []
# ...
ln -sf "/usr/share/zoneinfo/$TIMEZONE" /etc/localtime
