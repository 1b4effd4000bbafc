# ---
# name: Unattended updates off
# description: Windows Update installs nothing and restarts nothing unless we ask for it.
# inputs: {}
# packages: []
# timeout: 120
# retry_safe: true
# ...
#
# A server that updates itself differs from its siblings by the hour it was launched at, and
# restarts at moments nobody chose. Updates come by a new image. That is a duty: do build them.
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'

# The documented policy values, and not the service disabled: our own builds still use it.
# https://learn.microsoft.com/windows/deployment/update/waas-wu-settings
$policy = 'HKLM:\SOFTWARE\Policies\Microsoft\Windows\WindowsUpdate\AU'
if (-not (Test-Path -Path $policy)) {
    New-Item -Path $policy -Force | Out-Null
    Write-Output "created: $policy"
}
$wanted = [ordered]@{
    NoAutoUpdate                  = 1
    NoAutoRebootWithLoggedOnUsers = 1
}
foreach ($name in $wanted.Keys) {
    if ((Get-Item -Path $policy).GetValue($name) -eq $wanted[$name]) {
        Write-Output "unchanged: $policy\$name"
    }
    else {
        New-ItemProperty -Path $policy -Name $name -Value $wanted[$name] -PropertyType DWord `
            -Force | Out-Null
        Write-Output "set: $policy\$name = $($wanted[$name])"
    }
}
