# ---
# RightScript Name: Drain
# Inputs: {}
# Attachments: []
# ...
exit 0
