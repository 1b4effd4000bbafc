# ---
# name: Page file
# description: One page file of a fixed size on the system disk; it counts from the next restart.
# inputs:
#   PAGE_FILE_MIB:
#     type: int
#     default: 4096
#     min: 0
#     max: 1048576
#     description: Size of the page file in MiB; 0 leaves the size to Windows.
# packages: []
# timeout: 120
# retry_safe: true
# ...
#
# A page file that Windows sizes itself grows when memory is short, which is when a full disk hurts
# most. This script does not restart the server: whoever needs the new size now restarts it.
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'

[int] $size = 4096
if ("$env:PAGE_FILE_MIB" -ne '' -and -not [int]::TryParse($env:PAGE_FILE_MIB, [ref] $size)) {
    throw "PAGE_FILE_MIB must be a number of MiB, not '$env:PAGE_FILE_MIB'"
}

$computer = Get-CimInstance -ClassName Win32_ComputerSystem
$automatic = $size -eq 0
if ($computer.AutomaticManagedPagefile -eq $automatic) {
    Write-Output "unchanged: Windows sizes the page file: $automatic"
}
else {
    Set-CimInstance -InputObject $computer -Property @{ AutomaticManagedPagefile = $automatic }
    Write-Output "set: Windows sizes the page file: $automatic"
}
if ($automatic) { return }

$path = "$env:SystemDrive\pagefile.sys"
foreach ($setting in @(Get-CimInstance -ClassName Win32_PageFileSetting)) {
    if ($setting.Name -ne $path) {
        Remove-CimInstance -InputObject $setting
        Write-Output "removed: $($setting.Name), counts from the next restart"
    }
}
$current = Get-CimInstance -ClassName Win32_PageFileSetting | Where-Object { $_.Name -eq $path }
$wanted = @{ InitialSize = [uint32] $size; MaximumSize = [uint32] $size }
if ($null -eq $current) {
    New-CimInstance -ClassName Win32_PageFileSetting -Property (@{ Name = $path } + $wanted) |
        Out-Null
    Write-Output "created: $path of $size MiB, counts from the next restart"
}
elseif ($current.InitialSize -eq $size -and $current.MaximumSize -eq $size) {
    Write-Output "unchanged: $path of $size MiB"
}
else {
    Set-CimInstance -InputObject $current -Property $wanted
    Write-Output "set: $path to $size MiB, counts from the next restart"
}
