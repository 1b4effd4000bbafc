#!/usr/bin/env bash

# RightScript Name: Run Puppet Agent
# Description: Run puppet agent and install if needed
# Packages: puppet
# Inputs:
#   PUPPET_SERVER:
#     Input Type: single
#     Category: Uncategorized
#     Default: none
#     Description: The puppet master server to which the puppet agent should connect.
#     Required: true
#     Advanced: true
#   APACHE_MPM:
#     Input Type: single
#     Category: Uncategorized
#     Default: text:event
#     Required: no
#     Advanced: no
# ...

set -ex
puppet agent --server "$PUPPET_SERVER"
