# ---
# name: Time servers
# description: The Windows Time service follows the servers given; the image's own if none are.
# inputs:
#   TIME_SERVERS:
#     type: list
#     default: []
#     description: NTP servers by name or address; empty keeps what the image came with.
# packages: []
# timeout: 300
# retry_safe: true
# ...
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'

$servers = @("$env:TIME_SERVERS" -split "`n" | ForEach-Object { $_.Trim() } | Where-Object { $_ })
foreach ($server in $servers) {
    if ($server -notmatch '^[A-Za-z0-9.:-]+$') {
        throw "TIME_SERVERS: '$server' is neither a host name nor an address"
    }
}

# Sets a value of the registry and says whether it was another one before.
function Set-RegistryValue([string] $Path, [string] $Name, $Value, [string] $Type) {
    $key = Get-Item -Path $Path
    if ($key.GetValue($Name) -eq $Value) {
        Write-Output "unchanged: $Path\$Name"
        return
    }
    New-ItemProperty -Path $Path -Name $Name -Value $Value -PropertyType $Type -Force | Out-Null
    $script:changed = $true
    Write-Output "set: $Path\$Name = $Value"
}

$script:changed = $false
$base = 'HKLM:\SYSTEM\CurrentControlSet\Services\W32Time'
if ($servers.Count -eq 0) {
    Write-Output "unchanged: TIME_SERVERS is empty, the image's own time source stays as it is"
}
else {
    # 0x8: ask as a client. Without it Windows tries symmetric mode, which many servers refuse.
    $peers = ($servers | ForEach-Object { "$_,0x8" }) -join ' '
    Set-RegistryValue "$base\Parameters" 'NtpServer' $peers 'String'
    Set-RegistryValue "$base\Parameters" 'Type' 'NTP' 'String'
    # The poll interval of a server in a data centre: 2^6 to 2^10 seconds.
    Set-RegistryValue "$base\Config" 'MinPollInterval' 6 'DWord'
    Set-RegistryValue "$base\Config" 'MaxPollInterval' 10 'DWord'
}

# Outside a domain the service starts on a trigger and ends again: a server needs it always.
$service = Get-Service -Name W32Time
if ($service.StartType -ne 'Automatic') {
    Set-Service -Name W32Time -StartupType Automatic
    Write-Output 'set: W32Time starts automatically'
}
if ($service.Status -ne 'Running') {
    Start-Service -Name W32Time
    Write-Output 'started: W32Time'
}
elseif ($script:changed) {
    Restart-Service -Name W32Time
    Write-Output 'restarted: W32Time'
}
else {
    Write-Output 'unchanged: W32Time runs'
}

if ($script:changed) {
    # What w32tm says is in the server's language: its exit code decides. Its first try comes too
    # early when the service has just started.
    $deadline = [DateTime]::UtcNow.AddSeconds(60)
    do {
        $said = & w32tm.exe /resync /rediscover 2>&1 | Out-String
        $code = $LASTEXITCODE
        if ($code -ne 0) { Start-Sleep -Seconds 5 }
    } while ($code -ne 0 -and [DateTime]::UtcNow -lt $deadline)
    if ($code -ne 0) {
        throw "no time from any of $($servers -join ', ') after 60 s; w32tm says: $($said.Trim())"
    }
    Write-Output 'checked: the clock was set by its time servers'
}
