// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.EndToEnd.Tests.Acceptance;

/// <summary>What init does in the guest of <see cref="MemoryBootTests"/>.</summary>
internal static class MemoryGuest
{
    /// <summary>
    /// The script. Its variables: <c>mode</c> (attach, or the options of a mount on which losetup makes a device),
    /// <c>place</c> of the daemon (inside or outside of the group), <c>version</c> of the control group (1 or 2),
    /// <c>limit</c> of its memory, <c>pieces</c> of 16 MiB in each of three files, and <c>patience</c> in seconds.
    /// </summary>
    /// <remarks>
    /// Init is in the root group and so never short of memory; when time is over before the shell that works has
    /// ended, it prints the kernel stacks of all that wait. What it prints of the group comes from the kernel:
    /// lines <c>GROUP key value</c>, and <c>THREAD flags name</c> for the daemon's threads.
    /// </remarks>
    public const string Script =
        """
        export mode place version limit pieces
        mount -t sysfs none /sys
        mount -t tmpfs none /run
        mount -t ext4 /dev/vda /disk || fail "mount of the disk"
        if [ $version = 1 ]; then
            mount -t cgroup -o memory none /sys/fs/cgroup || fail cgroup
            export group=/sys/fs/cgroup/small
            mkdir $group
            echo $limit > $group/memory.limit_in_bytes || fail limit
        else
            mount -t cgroup2 none /sys/fs/cgroup || fail cgroup
            echo +memory > /sys/fs/cgroup/cgroup.subtree_control || fail "no memory controller"
            export group=/sys/fs/cgroup/small
            mkdir $group
            echo $limit > $group/memory.max || fail limit
            echo 0 > $group/memory.swap.max || fail "limit on swap"
        fi
        head -c 16777216 /dev/urandom > /pattern

        cat > /worker <<'END'
        bad() { echo "$*" > /run/bad; exit 1; }
        say() { echo "$(cut -d' ' -f1 /proc/uptime) s: $*"; }
        serve() {
            if [ $mode = attach ]; then
                /disk/qcow2fuse attach /disk/disk.qcow2 > /run/device
            else
                /disk/qcow2fuse mount -o $mode /disk/disk.qcow2 /mnt && losetup -f > /run/device \
                    && losetup $(cat /run/device) /mnt/disk.raw
            fi || bad "no device"
        }
        files() { for i in $(seq $pieces); do cat /pattern; done; }

        [ $place = inside ] || serve
        echo $$ > $group/cgroup.procs
        [ $place = outside ] || serve
        device=$(cat /run/device)
        daemon=$(pidof qcow2fuse)
        case "$(cat /proc/$daemon/cgroup)" in
        */small*) [ $place = inside ] || bad "the daemon is in the group" ;;
        *) [ $place = outside ] || bad "the daemon is not in the group" ;;
        esac
        say "$device is served"
        mount -t ext4 $device /inner || bad "mount of the device"
        (cd /inner && sha256sum -c sums) > /dev/null || bad "what the host wrote is wrong"
        for i in 1 2 3; do
            (files | dd of=/inner/file$i bs=1M iflag=fullblock conv=fsync 2>/dev/null || bad "write of file$i") &
        done
        wait
        [ ! -f /run/bad ] || exit 1
        say "written"
        grep VmHWM /proc/$daemon/status
        for task in /proc/$daemon/task/*; do
            echo "THREAD $(sed 's/.*) //' $task/stat | cut -d' ' -f7) $(cat $task/comm)"
        done
        echo 3 > /proc/sys/vm/drop_caches
        sum=$(files | md5sum | cut -d' ' -f1)
        for i in 1 2 3; do echo "$sum  file$i" >> /inner/guestsums; done
        (cd /inner && md5sum -c guestsums) > /dev/null || bad "what is read is not what was written"
        say "compared"
        umount /inner || bad "umount of the device"
        if [ $mode = attach ]; then
            /disk/qcow2fuse detach $device || bad detach
        else
            losetup -d $device && umount /mnt || bad "umount of the mount"
        fi
        while [ -d /proc/$daemon ]; do sleep 1; done
        say "detached"
        END
        { sh /worker; touch /run/end; } &

        while [ ! -f /run/end ] && [ $(cut -d. -f1 /proc/uptime) -lt $patience ]; do sleep 1; done
        if [ $version = 1 ]; then
            echo "GROUP max $(cat $group/memory.failcnt)"
            sed -n 's/^oom_kill /GROUP oom_kill /p' $group/memory.oom_control
        else
            sed 's/^/GROUP /' $group/memory.events
        fi
        if [ ! -f /run/end ]; then
            for task in /proc/[0-9]*/task/[0-9]*; do
                grep -q '^State:.*[SI] (' $task/status && ! grep -q request_wait $task/stack && continue
                echo "--- $(cat $task/comm), $(grep ^State: $task/status)"
                cat $task/stack
            done
            dmesg | tail -n 60
            fail "hangs"
        fi
        [ ! -f /run/bad ] || fail "$(cat /run/bad)"
        umount /disk || fail "umount of the disk"
        pass
        """;
}
