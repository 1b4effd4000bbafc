#!/usr/bin/env ruby
# ---
# RightScript Name: Cache
# ...
puts 1
