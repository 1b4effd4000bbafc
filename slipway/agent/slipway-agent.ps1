<#
.SYNOPSIS
The Slipway agent for Windows: calls Slipway, does what it is told, and tells what came of it.

.DESCRIPTION
Windows PowerShell 5.1 and what comes with it. The same calls as slipway_agent.py, which explains them:
a one-time token is exchanged for a secret of our own; an instruction's number is on the disk before
it begins, so that none begins twice; output goes out in pieces with byte offsets; whatever gets no
answer is repeated, with growing pauses.

Files, in %ProgramData%\Slipway\agent, for the system and administrators only:

config.json    where Slipway is, which launch this is; until the first call also the one-time token
secret         what we call with; made here, and nobody else has it
secret.next    another one, while it takes the place of the first
state.json     the instance we belong to, and the number of the last instruction begun
#>
param(
    [Parameter(Mandatory = $true, Position = 0)]
    [ValidateSet('install', 'run')]
    [string]$Action
)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'

$Version = 1
# How long Slipway may keep a question for something to do open, and when the connection is dead.
$PollSeconds = 25
$AnswerMilliseconds = 45000
# Between two tries while Slipway cannot be reached: from the first to the longest, doubling.
$FirstPauseSeconds = 0.5
$LongestPauseSeconds = 30.0
# After a "no": somebody has to do something before it can become a "yes".
$RefusedPauseSeconds = 60
# A command that says nothing is reported so often all the same; output waits at most so long.
$HeartbeatSeconds = 5.0
$FlushSeconds = 0.5
$PieceBytes = 65536

$TaskName = 'Slipway agent'
$Folder = Join-Path $env:ProgramData 'Slipway\agent'
$Random = New-Object System.Random

function Write-Log([string]$Text) {
    # One line, never with a secret in it.
    $stamp = [DateTime]::UtcNow.ToString('yyyy-MM-ddTHH:mm:ssZ')
    $line = "$stamp slipway-agent: $Text`r`n"
    [IO.File]::AppendAllText((Join-Path $Folder 'agent.log'), $line)
}

# -- files ------------------------------------------------------------------------------------------

function Read-Text([string]$Name) {
    $path = Join-Path $Folder $Name
    if ([IO.File]::Exists($path)) { return [IO.File]::ReadAllText($path) }
    return $null
}

function Write-Text([string]$Name, [string]$Text) {
    # On the disk, whole, before we go on.
    $path = Join-Path $Folder $Name
    $draft = "$path.draft"
    $bytes = [Text.Encoding]::UTF8.GetBytes($Text)
    $stream = New-Object IO.FileStream($draft, [IO.FileMode]::Create, [IO.FileAccess]::Write, [IO.FileShare]::None, 4096, [IO.FileOptions]::WriteThrough)
    try {
        $stream.Write($bytes, 0, $bytes.Length)
        $stream.Flush($true)
    } finally {
        $stream.Dispose()
    }
    if ([IO.File]::Exists($path)) {
        [IO.File]::Replace($draft, $path, $null)
    } else {
        [IO.File]::Move($draft, $path)
    }
}

function Remove-Text([string]$Name) {
    $path = Join-Path $Folder $Name
    if ([IO.File]::Exists($path)) { [IO.File]::Delete($path) }
}

function Read-Table([string]$Name) {
    $table = @{}
    $text = Read-Text $Name
    if ($text) {
        foreach ($property in ($text | ConvertFrom-Json).PSObject.Properties) {
            $table[$property.Name] = $property.Value
        }
    }
    return $table
}

function Write-Table([string]$Name, [hashtable]$Table) {
    Write-Text $Name (ConvertTo-Json -Compress -Depth 8 $Table)
}

# -- what this server is -----------------------------------------------------------------------------

function Get-Digest([string]$Text) {
    $sha = [Security.Cryptography.SHA256]::Create()
    try {
        $hash = $sha.ComputeHash([Text.Encoding]::UTF8.GetBytes($Text))
    } finally {
        $sha.Dispose()
    }
    return -join ($hash | ForEach-Object { $_.ToString('x2') })
}

function New-Secret {
    $bytes = New-Object byte[] 32
    $source = [Security.Cryptography.RandomNumberGenerator]::Create()
    try {
        $source.GetBytes($bytes)
    } finally {
        $source.Dispose()
    }
    return [Convert]::ToBase64String($bytes).TrimEnd('=').Replace('+', '-').Replace('/', '_')
}

function Get-InstanceId {
    # EC2's metadata service, by the way that needs a session; else OpenStack's.
    $base = 'http://169.254.169.254'
    try {
        $headers = @{ 'X-aws-ec2-metadata-token-ttl-seconds' = '60' }
        $session = Invoke-RestMethod -Method Put -Uri "$base/latest/api/token" -Headers $headers -TimeoutSec 2
        $headers = @{ 'X-aws-ec2-metadata-token' = $session }
        return [string](Invoke-RestMethod -Uri "$base/latest/meta-data/instance-id" -Headers $headers -TimeoutSec 2)
    } catch {
        Write-Log "no EC2 metadata: $($_.Exception.Message)"
    }
    try {
        return [string](Invoke-RestMethod -Uri "$base/openstack/latest/meta_data.json" -TimeoutSec 2).uuid
    } catch {
        Write-Log "no OpenStack metadata: $($_.Exception.Message)"
    }
    return ''
}

function Get-BootId {
    return (Get-CimInstance Win32_OperatingSystem).LastBootUpTime.ToUniversalTime().ToString('yyyyMMddHHmmssfff')
}

function Get-Facts {
    $system = Get-CimInstance Win32_OperatingSystem
    return @{
        boot_id   = $script:BootId
        host_name = [Net.Dns]::GetHostName()
        system    = [string]$system.Caption
        version   = [string]$system.Version
        shell     = [string]$PSVersionTable.PSVersion
        agent     = $Version
    }
}

# -- Slipway, from here --------------------------------------------------------------------------------

function Test-Address([string]$Address) {
    $uri = New-Object Uri($Address)
    if ($uri.Scheme -eq 'https') { return }
    if ($uri.Scheme -eq 'http' -and $uri.IsLoopback) { return }
    throw "$Address is not encrypted: only https, or http to this very computer"
}

# One try. Answers @{ Status; Body }; Status 0 means that there was no answer.
function Send-Call([string]$Path, [hashtable]$Body) {
    $uri = New-Object Uri("$($script:Config['api'])/agent/v1/$Path")
    $request = [Net.HttpWebRequest][Net.WebRequest]::Create($uri)
    $request.Method = 'POST'
    $request.ContentType = 'application/json'
    $request.UserAgent = "slipway-agent/$Version (Windows)"
    $request.Timeout = $AnswerMilliseconds
    $request.ReadWriteTimeout = $AnswerMilliseconds
    $request.KeepAlive = $true
    $request.ServicePoint.Expect100Continue = $false
    # Small messages at once: the clock is measured over this connection.
    $request.ServicePoint.UseNagleAlgorithm = $false
    $who = "$($script:Config['launch']).$($script:Config['generation']).$($script:Secret)"
    $request.Headers['Authorization'] = "Bearer $who"
    $request.Headers['Slipway-Instance'] = $script:InstanceId
    $request.Headers['Slipway-Boot'] = $script:BootId
    $bytes = [Text.Encoding]::UTF8.GetBytes((ConvertTo-Json -Compress -Depth 8 $Body))
    $response = $null
    try {
        $stream = $request.GetRequestStream()
        try {
            $stream.Write($bytes, 0, $bytes.Length)
        } finally {
            $stream.Dispose()
        }
        $response = $request.GetResponse()
    } catch [Net.WebException] {
        # A "no" comes as an exception with a response; no answer comes without one.
        $response = $_.Exception.Response
        if ($null -eq $response) { return @{ Status = 0; Body = $null; Trouble = $_.Exception.Message } }
    }
    try {
        $reader = New-Object IO.StreamReader($response.GetResponseStream(), [Text.Encoding]::UTF8)
        $text = $reader.ReadToEnd()
        $status = [int]$response.StatusCode
    } catch [IO.IOException], [Net.WebException] {
        return @{ Status = 0; Body = $null; Trouble = $_.Exception.Message }
    } finally {
        $response.Close()
    }
    $found = $null
    try {
        if ($text) { $found = $text | ConvertFrom-Json }
    } catch {
        $found = $null
    }
    $trouble = ''
    if ($status -ge 300 -and $null -ne $found -and $found.PSObject.Properties['detail']) { $trouble = [string]$found.detail }
    if ($status -eq 410) { throw "OVER: $trouble" }
    if ($status -gt 0 -and $status -lt 300) { $script:PauseSeconds = $FirstPauseSeconds }
    return @{ Status = $status; Body = $found; Trouble = $trouble }
}

function Get-Pause {
    # Longer each time, and never in step with others.
    $pause = $script:PauseSeconds * (0.5 + $Random.NextDouble() / 2)
    $script:PauseSeconds = [Math]::Min($script:PauseSeconds * 2, $LongestPauseSeconds)
    return $pause
}

function Test-Passing([hashtable]$Answer) {
    return $Answer.Status -eq 0 -or $Answer.Status -ge 500 -or $Answer.Status -eq 429
}

# Until there is an answer that will not be another next time, for as long as it takes.
function Send-Insisting([string]$Path, [hashtable]$Body) {
    while ($true) {
        $answer = Send-Call $Path $Body
        if (-not (Test-Passing $answer)) { return $answer }
        $pause = Get-Pause
        Write-Log "no answer to $Path ($($answer.Status) $($answer.Trouble)); next try in $([Math]::Round($pause, 1)) s"
        Start-Sleep -Milliseconds ([int]($pause * 1000))
    }
}

# -- who we are ----------------------------------------------------------------------------------------

function Save-State([hashtable]$Values) {
    $changed = $false
    foreach ($name in $Values.Keys) {
        if (-not $script:State.ContainsKey($name) -or $script:State[$name] -ne $Values[$name]) {
            $script:State[$name] = $Values[$name]
            $changed = $true
        }
    }
    if ($changed) { Write-Table 'state.json' $script:State }
}

function Start-Introduction {
    if ($script:State.ContainsKey('instance') -and $script:State['instance'] -ne $script:InstanceId) {
        # The disk of another server, copied: its secret is not ours to use.
        Write-Log "these files belong to instance $($script:State['instance']), this is another"
        exit 0
    }
    $script:Secret = Read-Text 'secret'
    if (-not $script:Secret) {
        $script:Secret = New-Secret
        Write-Text 'secret' $script:Secret
    }
    while ($script:Config.ContainsKey('token')) {
        $body = @{
            token         = $script:Config['token']
            secret_sha256 = Get-Digest $script:Secret
            instance_id   = $script:InstanceId
            facts         = Get-Facts
        }
        $answer = Send-Insisting 'hello' $body
        if ($answer.Status -lt 300) {
            Save-State @{ instance = $script:InstanceId }
            $script:Config.Remove('token')
            Write-Table 'config.json' $script:Config
        } else {
            Write-Log "Slipway does not accept us ($($answer.Status) $($answer.Trouble)); trying again"
            Start-Sleep -Seconds $RefusedPauseSeconds
        }
    }
    if (Read-Text 'secret.next') { Update-Secret }
}

function Update-Secret {
    # Ended half-way, it is done again with the same two; refused, the old one stays.
    $new = Read-Text 'secret.next'
    if (-not $new) {
        $new = New-Secret
        Write-Text 'secret.next' $new
    }
    $answer = Send-Insisting 'secret' @{ secret_sha256 = Get-Digest $new }
    if ($answer.Status -ge 300) {
        Write-Log "the secret could not be changed ($($answer.Status) $($answer.Trouble))"
        Start-Sleep -Seconds $RefusedPauseSeconds
        return
    }
    Write-Text 'secret' $new
    Remove-Text 'secret.next'
    $script:Secret = $new
}

# -- the work ------------------------------------------------------------------------------------------

function Start-Command([string]$Text, [int]$Seq) {
    # In a file, because a command line is too short for some; what must not be seen comes through
    # standard input.
    $path = Join-Path $Folder "command-$Seq.ps1"
    [IO.File]::WriteAllText($path, $Text, (New-Object Text.UTF8Encoding($true)))
    $start = New-Object Diagnostics.ProcessStartInfo
    $start.FileName = Join-Path $PSHOME 'powershell.exe'
    $start.Arguments = "-NoProfile -NonInteractive -ExecutionPolicy Bypass -File `"$path`""
    $start.UseShellExecute = $false
    $start.CreateNoWindow = $true
    $start.RedirectStandardInput = $true
    $start.RedirectStandardOutput = $true
    $start.RedirectStandardError = $true
    $start.WorkingDirectory = $env:SystemRoot
    return [Diagnostics.Process]::Start($start)
}

function Stop-Command([Diagnostics.Process]$Process, [int]$Seq) {
    if (-not $Process.HasExited) {
        # With all that it has started.
        & taskkill.exe /T /F /PID $Process.Id | Out-Null
        $Process.WaitForExit(5000) | Out-Null
    }
    $Process.Dispose()
    Remove-Text "command-$Seq.ps1"
}

function Send-End([int]$Seq, [hashtable]$Ended) {
    $answer = Send-Insisting "instructions/$Seq/report" @{ ended = $Ended }
    if ($answer.Status -ge 300) { Write-Log "instruction $Seq was not wanted any more ($($answer.Trouble))" }
    $script:State['open'] = $false
}

function Invoke-Run($Todo) {
    $clock = [Diagnostics.Stopwatch]::StartNew()
    $process = Start-Command $Todo.command $Todo.seq
    $streams = @{
        out = @{ Source = $process.StandardOutput.BaseStream; Chunk = (New-Object byte[] 8192); Task = $null; Open = $true; Data = (New-Object IO.MemoryStream); Taken = [long]0 }
        err = @{ Source = $process.StandardError.BaseStream; Chunk = (New-Object byte[] 8192); Task = $null; Open = $true; Data = (New-Object IO.MemoryStream); Taken = [long]0 }
    }
    $entry = New-Object byte[] 0
    if ($Todo.stdin) { $entry = [Convert]::FromBase64String($Todo.stdin) }
    $writing = $process.StandardInput.BaseStream.WriteAsync($entry, 0, $entry.Length)
    $closed = $false
    $result = $null
    $nextTry = 0.0
    $reportedAt = $FlushSeconds - $HeartbeatSeconds
    $oldest = -1.0
    try {
        while ($true) {
            if (-not $closed -and $writing.IsCompleted) {
                # One that does not read its input has closed it; its exit code says what that means.
                try { $process.StandardInput.Close() } catch [IO.IOException] { Write-Log 'a command did not read its input' }
                $closed = $true
            }
            $moved = $false
            foreach ($name in 'out', 'err') {
                $stream = $streams[$name]
                if (-not $stream.Open) { continue }
                if ($null -eq $stream.Task) {
                    # No more than this is read ahead: while Slipway is away the command waits.
                    if ($stream.Data.Length -ge $PieceBytes) { continue }
                    $stream.Task = $stream.Source.ReadAsync($stream.Chunk, 0, $stream.Chunk.Length)
                }
                if ($stream.Task.IsCompleted) {
                    $count = 0
                    if (-not $stream.Task.IsFaulted) { $count = $stream.Task.Result }
                    $stream.Task = $null
                    $moved = $true
                    if ($count -eq 0) {
                        $stream.Open = $false
                    } else {
                        $stream.Data.Write($stream.Chunk, 0, $count)
                        if ($oldest -lt 0) { $oldest = $clock.Elapsed.TotalSeconds }
                    }
                }
            }
            $now = $clock.Elapsed.TotalSeconds
            if ($null -eq $result) {
                if (-not $streams.out.Open -and -not $streams.err.Open -and $process.HasExited) {
                    $result = @{ exit_code = $process.ExitCode }
                } elseif ($now -ge $Todo.timeout_s) {
                    & taskkill.exe /T /F /PID $process.Id | Out-Null
                    $result = @{ timed_out = $true }
                }
            }
            $full = $streams.out.Data.Length -ge $PieceBytes -or $streams.err.Data.Length -ge $PieceBytes
            $due = $reportedAt + $HeartbeatSeconds
            if ($oldest -ge 0) { $due = [Math]::Min($due, $oldest + $FlushSeconds) }
            if ($null -ne $result -or $full) { $due = $now }
            $due = [Math]::Max($due, $nextTry)
            if ($now -lt $due) {
                if (-not $moved) { Start-Sleep -Milliseconds 20 }
                continue
            }
            $body = @{}
            foreach ($name in 'out', 'err') {
                $body[$name] = @{ offset = $streams[$name].Taken; data = [Convert]::ToBase64String($streams[$name].Data.ToArray()) }
            }
            if ($null -ne $result) { $body['ended'] = $result }
            $answer = Send-Call "instructions/$($Todo.seq)/report" $body
            if (Test-Passing $answer) {
                $pause = Get-Pause
                Write-Log "no answer ($($answer.Status) $($answer.Trouble)); next try in $([Math]::Round($pause, 1)) s"
                $nextTry = $clock.Elapsed.TotalSeconds + $pause
                continue
            }
            if ($answer.Status -ge 300) {
                Write-Log "instruction $($Todo.seq): $($answer.Trouble)"
                Send-End $Todo.seq @{ lost = $true }
                return
            }
            $reportedAt = $clock.Elapsed.TotalSeconds
            $oldest = -1.0
            if (-not $answer.Body.wanted) { return }
            foreach ($name in 'out', 'err') {
                $stream = $streams[$name]
                $known = [long]$answer.Body.expected.$name
                $rest = $stream.Data.ToArray()
                $skip = [int]($known - $stream.Taken)
                $stream.Data.SetLength(0)
                $stream.Data.Write($rest, $skip, $rest.Length - $skip)
                $stream.Taken = $known
            }
            if ($answer.Body.full) {
                # Whoever reads it is slow.
                $nextTry = $reportedAt + $FlushSeconds
                continue
            }
            if ($null -ne $result -and $streams.out.Data.Length -eq 0 -and $streams.err.Data.Length -eq 0) { return }
        }
    } finally {
        Stop-Command $process $Todo.seq
        $script:State['open'] = $false
    }
}

# Each call carries the answer to the one before: Slipway times from its answer to our next call.
function Invoke-Time($Todo) {
    $clock = [Diagnostics.Stopwatch]::StartNew()
    $process = Start-Command $Todo.command $Todo.seq
    $trips = @()
    $said = ''
    $mark = $null
    try {
        while ($clock.Elapsed.TotalSeconds -lt $Todo.timeout_s) {
            $answer = Send-Call 'clock' @{ mark = $mark }
            if ($answer.Status -eq 0 -or $answer.Status -ge 300) {
                Write-Log "the clock could not be measured: $($answer.Status) $($answer.Trouble)"
                return @{ lost = $true }
            }
            if ($null -ne $answer.Body.trip) {
                $trips += @{ sent_at = $answer.Body.trip.sent_at; rtt_s = $answer.Body.trip.rtt_s; answer = $said }
                if ($trips.Count -eq $Todo.count) { return @{ trips = $trips } }
            }
            $mark = $answer.Body.mark
            $process.StandardInput.WriteLine($Todo.line)
            $process.StandardInput.Flush()
            $reading = $process.StandardOutput.ReadLineAsync()
            $left = [int](($Todo.timeout_s - $clock.Elapsed.TotalSeconds) * 1000)
            if ($left -le 0 -or -not $reading.Wait($left) -or $null -eq $reading.Result) { break }
            $said = $reading.Result.Trim()
        }
        return @{ timed_out = $true }
    } finally {
        Stop-Command $process $Todo.seq
    }
}

function Start-Work {
    Start-Introduction
    Write-Log "at work for launch $($script:Config['launch'])"
    if ($script:State.ContainsKey('open') -and $script:State['open']) {
        # We died in the middle of it, and do not know how far it came.
        Send-End $script:State['begun'] @{ lost = $true }
    }
    while ($true) {
        $begun = 0
        if ($script:State.ContainsKey('begun')) { $begun = $script:State['begun'] }
        $answer = Send-Insisting 'next' @{ after = $begun; wait_s = $PollSeconds }
        if ($answer.Status -ge 300) {
            Write-Log "Slipway does not accept us ($($answer.Status) $($answer.Trouble)); trying again"
            Start-Sleep -Seconds $RefusedPauseSeconds
            continue
        }
        $todo = $answer.Body.instruction
        if ($null -eq $todo) {
            if ($answer.Body.renew) { Update-Secret }
            continue
        }
        Save-State @{ begun = $todo.seq; open = $true }
        switch ($todo.kind) {
            'run' { Invoke-Run $todo }
            'time' { Send-End $todo.seq (Invoke-Time $todo) }
            'leave' {
                Send-End $todo.seq @{ exit_code = 0 }
                return
            }
            default { Send-End $todo.seq @{ unknown = $true } }
        }
    }
}

# -- being there at every boot --------------------------------------------------------------------------

function Install-Agent {
    $fresh = Read-Table 'config.new'
    $known = Read-Table 'config.json'
    $state = Read-Table 'state.json'
    $same = $known['launch'] -eq $fresh['launch'] -and $known['generation'] -eq $fresh['generation']
    if (-not ($same -and $state['instance'] -eq (Get-InstanceId))) {
        # Another launch, or the copied disk of another server: nothing of it is ours.
        foreach ($name in 'secret', 'secret.next', 'state.json') { Remove-Text $name }
        Write-Table 'config.json' $fresh
    }
    Remove-Text 'config.new'
    $program = Join-Path $Folder 'slipway-agent.ps1'
    $arguments = "-NoProfile -NonInteractive -ExecutionPolicy Bypass -File `"$program`" run"
    $what = New-ScheduledTaskAction -Execute (Join-Path $PSHOME 'powershell.exe') -Argument $arguments
    # At every boot, and looked after every minute: the scheduler's own restarts do not count an exit
    # code as a failure. One that still runs is left alone.
    $when = @(
        (New-ScheduledTaskTrigger -AtStartup),
        (New-ScheduledTaskTrigger -Once -At ([DateTime]::Now) -RepetitionInterval ([TimeSpan]::FromMinutes(1)))
    )
    $who = New-ScheduledTaskPrincipal -UserId 'S-1-5-18' -RunLevel Highest
    $how = New-ScheduledTaskSettingsSet -ExecutionTimeLimit ([TimeSpan]::Zero) -MultipleInstances IgnoreNew -AllowStartIfOnBatteries
    Register-ScheduledTask -TaskName $TaskName -Action $what -Trigger $when -Principal $who -Settings $how -Force | Out-Null
    Start-ScheduledTask -TaskName $TaskName
}

function Remove-Agent {
    Unregister-ScheduledTask -TaskName $TaskName -Confirm:$false -ErrorAction SilentlyContinue
    Remove-Item -Recurse -Force -Path $Folder
}

[Net.ServicePointManager]::SecurityProtocol = [Net.SecurityProtocolType]::Tls12
if ($Action -eq 'install') {
    Install-Agent
    exit 0
}
$script:Config = Read-Table 'config.json'
$script:State = Read-Table 'state.json'
$script:Secret = ''
$script:PauseSeconds = $FirstPauseSeconds
$script:InstanceId = Get-InstanceId
$script:BootId = Get-BootId
Test-Address $script:Config['api']
try {
    Start-Work
} catch {
    if (-not $_.Exception.Message.StartsWith('OVER: ')) {
        Write-Log "it ends: $($_.Exception.Message)"
        exit 1
    }
    Write-Log $_.Exception.Message
}
Remove-Agent
