// SPDX-License-Identifier: MIT
using System.Globalization;
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Fuse;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Mounting;

/// <summary>What lies below a disk is exchanged some hundred times a second while programs write and verify.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class LiveMountTests : MountTest
{
    private const int ExchangesMin = 50;

    [SkippableTheory]
    [InlineData("")]
    [InlineData("direct")]
    [InlineData("uring")]
    [InlineData("uring direct")]
    public void Fio_verifies_through_exchanges(string words)
    {
        bool isUring = words.Contains("uring", StringComparison.Ordinal);
        if (isUring)
            UringSwitch.Require();
        string image = NewImage("192M");
        string mountPoint = NewMountPoint();
        using (UringSwitch? held = isUring ? UringSwitch.Hold(on: true) : null)
        using (RunningProcess host = RunningProcess.Start(
            Path.Combine(AppContext.BaseDirectory, "Qcow2Fuse.LiveHost"),
            [image, mountPoint, .. words.Split(' ', StringSplitOptions.RemoveEmptyEntries)]))
        {
            Assert.Equal("ready", host.ReadLine());
            string raw = RawFileOf(image, mountPoint);
            do
            {
                Tool(
                    "fio", "--name=job", "--filename=" + raw, "--allow_file_create=0", "--direct=1", "--rw=randrw",
                    "--bsrange=512-64k", "--blockalign=512", "--size=24m", "--numjobs=4", "--offset_increment=32m",
                    "--ioengine=libaio", "--iodepth=8", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
                    "--fsync=100", "--output=" + PathOf("fio.log"));
            }
            while (Exchanges(host) < ExchangesMin);

            Tool("fallocate", "-p", "-o", "1000000", "-l", "3000000", raw);
            Tool("cp", "--sparse=auto", raw, PathOf("copy"));
            host.WriteLine("stop");
            Assert.Equal("closed", host.ReadLine());
        }

        QemuTools.ShouldPassCheck(image);
        Tool("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, PathOf("copy"));
    }

    private static long Exchanges(RunningProcess host)
    {
        host.WriteLine("count");
        return long.Parse(host.ReadLine()!, CultureInfo.InvariantCulture);
    }
}
