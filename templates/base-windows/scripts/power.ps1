# ---
# name: Power plan
# description: Full processor speed at all times; the server never sleeps or hibernates.
# inputs: {}
# packages: []
# timeout: 120
# retry_safe: true
# ...
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'

function Invoke-PowerCfg([string[]] $Arguments) {
    $said = & powercfg.exe @Arguments 2>&1 | Out-String
    if ($LASTEXITCODE -ne 0) {
        throw "powercfg $($Arguments -join ' ') failed with $($LASTEXITCODE): $($said.Trim())"
    }
    return $said
}

# Plans are told by their id: their names are in the server's language.
$highPerformance = '8c5e7fda-e8bf-4a96-9a85-a6e23a8c635c'
if ((Invoke-PowerCfg @('/getactivescheme')) -match $highPerformance) {
    Write-Output 'unchanged: power plan High performance'
}
else {
    Invoke-PowerCfg @('/setactive', $highPerformance) | Out-Null
    Write-Output 'set: power plan High performance'
}

$power = Get-Item -Path 'HKLM:\SYSTEM\CurrentControlSet\Control\Power'
if ($power.GetValue('HibernateEnabled') -eq 0) {
    Write-Output 'unchanged: hibernation is off'
}
elseif (Test-Path -Path "$env:SystemDrive\hiberfil.sys") {
    Invoke-PowerCfg @('/hibernate', 'off') | Out-Null
    Write-Output 'set: hibernation off, its file is removed'
}
else {
    # Most virtual machines cannot hibernate at all, and powercfg calls that an error.
    Write-Output 'unchanged: there is no hibernation file'
}

# Zero minutes is never; the setting is of the plan made active above.
foreach ($setting in 'standby-timeout-ac', 'disk-timeout-ac') {
    Invoke-PowerCfg @('/change', $setting, '0') | Out-Null
}
Write-Output 'set: never sleeps, disks never stop'
