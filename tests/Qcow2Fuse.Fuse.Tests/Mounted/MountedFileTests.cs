// SPDX-License-Identifier: MIT
using System.IO.MemoryMappedFiles;
using Xunit;

namespace Qcow2Fuse.Fuse.Tests.Mounted;

/// <summary>A mounted file under tools and calls, with requests by /dev/fuse.</summary>
public sealed class MountedFileTests() : MountedFile("fuse");

/// <summary>A mounted file under tools and calls, with requests over io_uring.</summary>
public sealed class UringMountedFileTests() : MountedFile("uring");

/// <summary>A mounted file under the tools and calls that use disk images.</summary>
public abstract class MountedFile : IDisposable
{
    private readonly string _transport;
    private readonly MountDirectory _directory = new();
    private readonly byte[] _data = new byte[8 << 20];
    private readonly string _dataPath;

    private HostProcess? _host;

    protected MountedFile(string transport)
    {
        _transport = transport;
        new Random(8).NextBytes(_data);
        _dataPath = _directory.Beside("data");
        File.WriteAllBytes(_dataPath, _data);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _host?.Dispose();
        _directory.Dispose();
        GC.SuppressFinalize(this);
    }

    [SkippableFact]
    public void LooksLikeADisk()
    {
        HostProcess host = Start();
        Assert.Equal(["disk.raw"], Directory.GetFiles(host.MountPoint).Select(Path.GetFileName));
        Assert.Equal(HostProcess.Size, new FileInfo(host.FilePath).Length);
        Assert.Equal(
            "fuse.qcow2fuse memory, file", Shell.Output("findmnt -n -o FSTYPE,SOURCE \"$1\"", host.MountPoint));
        string options = Shell.Output("findmnt -n -o VFS-OPTIONS \"$1\"", host.MountPoint);
        Assert.Contains("nosuid,nodev", options, StringComparison.Ordinal);
        Assert.Equal("0 regular file 600", Shell.Output("stat -c '%b %F %a' \"$1\"", host.FilePath));
        Assert.Equal(1, Shell.Run("touch \"$1\"/other", host.MountPoint).ExitCode);
    }

    [SkippableTheory]
    [InlineData("dd if=\"$1\" of=\"$2\" bs=1M conv=notrunc,fsync status=none")]
    [InlineData("dd if=\"$1\" of=\"$2\" bs=64k status=none")]
    [InlineData("dd if=\"$1\" of=\"$2\" bs=1M oflag=direct status=none")]
    [InlineData("dd if=\"$1\" of=\"$2\" bs=777 count=10791 status=none; tail -c +8384608 \"$1\" | dd of=\"$2\" bs=1 "
        + "seek=8384607 conv=notrunc status=none")]
    [InlineData("cat \"$1\" > \"$2\"")]
    [InlineData("cp \"$1\" \"$2\"")]
    public void ToolsWriteOntoItAsOntoABlockDevice(string script)
    {
        HostProcess host = Start();
        Shell.Output(script, _dataPath, host.FilePath);
        Assert.Equal(HostProcess.Size, new FileInfo(host.FilePath).Length);
        Assert.Equal("same", Shell.Output("cmp -n 8388608 \"$1\" \"$2\" && echo same", _dataPath, host.FilePath));
        Assert.Equal("same", Shell.Output(
            "dd if=\"$2\" iflag=direct bs=1M count=8 status=none | cmp - \"$1\" && echo same", _dataPath,
                host.FilePath));
    }

    [SkippableFact]
    public void MappedMemoryIsTheFile()
    {
        HostProcess host = Start();
        using (FileStream file = new(host.FilePath, FileMode.Open, FileAccess.ReadWrite))
        using (MemoryMappedFile map = MemoryMappedFile.CreateFromFile(
            file, null, 0, MemoryMappedFileAccess.ReadWrite, HandleInheritability.None, leaveOpen: true))
        using (MemoryMappedViewAccessor view = map.CreateViewAccessor(1 << 20, 1 << 16))
        {
            view.WriteArray(5, _data, 0, 60_000);
            view.Flush();
            file.Flush(flushToDisk: true);
        }

        string script =
            "dd if=\"$1\" iflag=direct bs=64k skip=16 count=1 status=none | tail -c +6 | head -c 60000 | cmp - \"$2\"";
        Assert.Contains("EOF on -", Shell.Run(script, host.FilePath, _dataPath).Output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void SizeStays()
    {
        HostProcess host = Start();
        (int exitCode, string output) = Shell.Run("truncate -s 4096 \"$1\"", host.FilePath);
        Assert.Equal(1, exitCode);
        Assert.Contains("Operation not permitted", output, StringComparison.Ordinal);
        Shell.Output("truncate -s 67108864 \"$1\"", host.FilePath);
        Assert.Contains("No space left", Shell.Run(
            "dd if=\"$1\" of=\"$2\" bs=1M seek=60 conv=notrunc", _dataPath, host.FilePath).Output,
                StringComparison.Ordinal);
        Assert.Equal(HostProcess.Size, new FileInfo(host.FilePath).Length);
    }

    [SkippableFact]
    public void HolesAreMadeAndFound()
    {
        HostProcess host = Start();
        Shell.Output("dd if=\"$1\" of=\"$2\" bs=1M conv=notrunc status=none", _dataPath, host.FilePath);
        Shell.Output("fallocate -p -o 1000000 -l 3000000 \"$1\"", host.FilePath);
        Assert.Equal(0, Shell.Run("cmp -n 1000000 \"$1\" \"$2\"", _dataPath, host.FilePath).ExitCode);
        Assert.Equal(0, Shell.Run("cmp -n 3000000 -i 1000000:0 \"$1\" /dev/zero", host.FilePath).ExitCode);
        Assert.Equal(0, Shell.Run(
            "cmp -n 1000000 -i 4000000 \"$1\" \"$2\"", _dataPath, host.FilePath).ExitCode);

        // 8 MiB were written; 732 whole pages of 4096 bytes lie in the punched range.
        long blocks = (8L << 20) / 512 - 731 * 8;
        Assert.Equal($"{blocks}", Shell.Output("stat -c %b \"$1\"", host.FilePath));
        string copy = _directory.Beside("copy");
        Shell.Output("cp --sparse=auto \"$1\" \"$2\"", host.FilePath, copy);
        Assert.Equal(0, Shell.Run("cmp \"$1\" \"$2\"", host.FilePath, copy).ExitCode);
        Assert.InRange(
            long.Parse(Shell.Output("stat -c %b \"$1\"", copy), System.Globalization.CultureInfo.InvariantCulture),
            1,
            blocks + 64);
        Assert.NotEqual(0, Shell.Run("fallocate -o 0 -l 128M \"$1\"", host.FilePath).ExitCode);
    }

    [SkippableFact]
    public void ManyWritersAtOnce()
    {
        const int Part = 1 << 20;
        HostProcess host = Start();
        Parallel.For(0, 8, (int i) =>
        {
            using Microsoft.Win32.SafeHandles.SafeFileHandle file = File.OpenHandle(
                host.FilePath, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
            for (int offset = 0; offset < Part; offset += 4096)
                RandomAccess.Write(file, _data.AsSpan(i * Part + offset, 4096), i * Part + offset);
            byte[] back = new byte[Part];
            Assert.Equal(Part, RandomAccess.Read(file, back, i * Part));
            Assert.True(_data.AsSpan(i * Part, Part).SequenceEqual(back));
        });
        Assert.Equal(0, Shell.Run("cmp -n 8388608 \"$1\" \"$2\"", _dataPath, host.FilePath).ExitCode);
    }

    private HostProcess Start(string words = "") =>
        _host = HostProcess.StartOver(_transport, _directory.MountPoint, words);
}
