# ---
# name: System disk
# description: The system volume takes all the room its disk has.
# inputs: {}
# packages: []
# timeout: 300
# retry_safe: true
# ...
#
# A disk made larger than its image (root_disk_gib) leaves the volume as small as it was.
Set-StrictMode -Version 3.0
$ErrorActionPreference = 'Stop'

$letter = $env:SystemDrive.Substring(0, 1)
Update-HostStorageCache
$partition = Get-Partition -DriveLetter $letter
$most = (Get-PartitionSupportedSize -DriveLetter $letter).SizeMax
# Partitions end on whole mebibytes: less than that is not room.
if ($most - $partition.Size -lt 1mb) {
    Write-Output ("unchanged: {0}: has {1:N1} GiB, all there is" -f $letter,
        ($partition.Size / 1gb))
}
else {
    Resize-Partition -DriveLetter $letter -Size $most
    Write-Output ("extended: {0}: from {1:N1} to {2:N1} GiB" -f $letter, ($partition.Size / 1gb),
        ($most / 1gb))
}
