// SPDX-License-Identifier: MIT
using System.Diagnostics;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Block.Filters;
using Qcow2Fuse.Protocols.Files;
using Qcow2Fuse.Testing;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Block.Tests;

public abstract class FileDeviceContract(bool direct, string? directory = null) : DurableDeviceContract, IDisposable
{
    private readonly ScratchDirectory _scratch = new(directory);

    internal ScratchDirectory Scratch => _scratch;

    public void Dispose()
    {
        _scratch.Dispose();
        GC.SuppressFinalize(this);
    }

    protected override BlockDevice Create(long length) => Open(_scratch.NewFile(length), readOnly: false);

    protected override BlockDevice Reopen(BlockDevice device, bool readOnly)
    {
        device.Dispose();
        return Open(((FileDevice)device).Path, readOnly);
    }

    protected FileDevice Open(string path, bool readOnly) => FileDevice.Open(path, readOnly, direct);

    [Theory]
    [InlineData(1)]
    [InlineData(513)]
    [InlineData(70000)]
    public void A_file_of_any_length_keeps_it_through_writes_inside(int length)
    {
        string path = _scratch.NewFile(length);
        using (FileDevice device = Open(path, readOnly: false))
        {
            device.KeepLength();
            Assert.Equal(length, device.Length);
            device.Write(length - 1, [7]);
            Assert.Equal(length, device.Length);
            Assert.Equal(7, ReadAll(device)[^1]);

            // Nothing is left for the end of the process, which a kill would forestall.
            Assert.Equal(length, new FileInfo(path).Length);
        }

        byte[] expected = new byte[length];
        expected[^1] = 7;
        Assert.Equal(expected, File.ReadAllBytes(path));
    }

    [Theory]
    [InlineData(8192 + 1)]
    [InlineData(70000)]
    public void Writes_of_all_sizes_up_to_an_end_inside_a_block_leave_the_file_as_long_as_it_is(int length)
    {
        string path = _scratch.NewFile(0);
        byte[] expected = DeviceModel.Pattern(length, seed: 1);
        using FileDevice device = Open(path, readOnly: false);
        device.KeepLength();
        device.Resize(length);
        device.Write(0, expected);
        for (int size = 1; size <= length; size = (size * 3) + 1)
        {
            byte[] source = DeviceModel.Pattern(size, seed: size);
            source.CopyTo(expected, length - size);
            device.Write(length - size, source);
            Assert.Equal(length, new FileInfo(path).Length);
            Assert.Equal(expected, ReadAll(device));
        }

        device.WriteParts(length - 600, new byte[200], new byte[200], new byte[200]);
        device.WriteZeroes(length - 5000, 5000, mayUnmap: true);
        device.WriteZeroes(length - 5000, 5000, mayUnmap: false);
        Array.Clear(expected, length - 5000, 5000);
        Assert.Equal(length, new FileInfo(path).Length);
        Assert.Equal(expected, ReadAll(device));
    }

    [Fact]
    public void A_file_ends_where_the_last_write_ended()
    {
        string path = _scratch.NewFile(0);
        using (FileDevice device = Open(path, readOnly: false))
            device.Write(10001, DeviceModel.Pattern(5000, seed: 1));
        Assert.Equal([.. new byte[10001], .. DeviceModel.Pattern(5000, seed: 1)], File.ReadAllBytes(path));
    }

    [Fact]
    public void A_file_that_became_shorter_is_an_error_and_not_zeroes()
    {
        string path = _scratch.NewFile(Size);
        using FileDevice device = Open(path, readOnly: true);
        using (FileStream file = new(path, FileMode.Open))
            file.SetLength(8192);
        BlockException failure = ShouldFail(BlockErrorKind.Io, () => device.Read(4096, new byte[8192]));
        Assert.Equal($"{device.Name}: read of 8192 bytes at 4096 failed: the file has become shorter", failure.Message);
        Assert.Equal(new BlockRequest(BlockOperation.Read, 4096, 8192), failure.Request);
        Assert.Equal(device.Name, failure.File);
    }

    [Fact]
    public void Punched_and_discarded_ranges_give_their_storage_back()
    {
        using BlockDevice device = Create(Size);
        device.Write(0, DeviceModel.Pattern(Size, seed: 1));
        device.Flush();
        long full = device.AllocatedBytes;
        device.WriteZeroes(0, Size / 4, mayUnmap: true);
        Assert.True(device.AllocatedBytes <= full - (Size / 4), "a punched range kept its storage");
        device.Discard(Size / 2, Size / 4);
        Assert.True(device.AllocatedBytes <= full - (Size / 2), "a discarded range kept its storage");
    }

    [Fact]
    public void Zeroes_that_must_stay_allocated_do()
    {
        using BlockDevice device = Create(Size);
        device.Write(0, DeviceModel.Pattern(Size, seed: 1));
        device.WriteZeroes(0, Size, mayUnmap: false);
        device.Flush();
        Assert.True(device.AllocatedBytes >= Size, $"{device.AllocatedBytes} bytes are left");
    }
}

public sealed class BufferedFileDeviceTests() : FileDeviceContract(direct: false)
{
    [Fact]
    public void What_is_not_a_file_is_refused_in_words()
    {
        string missing = Scratch.At("missing");
        Assert.Equal(
            $"{missing}: cannot be opened: No such file or directory",
            ShouldFail(BlockErrorKind.NotFound, () => FileDevice.Open(missing, readOnly: true)).Message);
        foreach (bool readOnly in new[] { true, false })
        {
            Assert.Equal(
                $"{Scratch.Path}: is a directory",
                ShouldFail(BlockErrorKind.InvalidFormat, () => FileDevice.Open(Scratch.Path, readOnly)).Message);
            Assert.Equal(
                "/dev/null: is a character device",
                ShouldFail(BlockErrorKind.InvalidFormat, () => FileDevice.Open("/dev/null", readOnly)).Message);
        }
    }

    [Fact]
    public void Control_characters_of_a_name_do_not_reach_messages()
    {
        string path = Scratch.At("a\n\u001b[2J\u202eb\u2028");
        BlockException failure = ShouldFail(BlockErrorKind.NotFound, () => FileDevice.Open(path));
        Assert.StartsWith(Scratch.At(@"a\x0a\x1b[2J\u{202e}b\u{2028}: "), failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_write_past_what_the_file_system_can_hold_is_too_large()
    {
        using FileDevice device = FileDevice.Open(Scratch.NewFile(0));
        ShouldFail(BlockErrorKind.TooLarge, () => device.Write(long.MaxValue - 8192, new byte[4096]));
        Assert.Equal(0, device.Length);
    }

    [Fact]
    public void Create_makes_a_new_file_and_replaces_one_only_when_told()
    {
        string path = Scratch.At("new");
        using (FileDevice device = FileDevice.Create(path))
            device.Write(0, [1, 2, 3]);
        BlockException failure = Assert.Throws<BlockException>(() => FileDevice.Create(path));
        Assert.Contains("File exists", failure.Message, StringComparison.Ordinal);
        Assert.Equal(3, new FileInfo(path).Length);
        using (FileDevice device = FileDevice.Create(path, replace: true))
            Assert.Equal(0, device.Length);
    }
}

/// <summary>tmpfs knows no FALLOC_FL_ZERO_RANGE, so that zeroes have to be written there.</summary>
public sealed class TmpfsFileDeviceTests() : FileDeviceContract(direct: false, directory: "/dev/shm")
{
    [SkippableFact]
    public void A_full_file_system_is_no_space()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "mounting needs root");
        string mount = Scratch.At("small");
        Directory.CreateDirectory(mount);
        Skip.If(Run("mount", "-t", "tmpfs", "-o", "size=64k", "none", mount) != 0, "tmpfs cannot be mounted here");
        try
        {
            using FileDevice device = FileDevice.Create(Path.Combine(mount, "file"));
            device.Write(0, DeviceModel.Pattern(32768, seed: 1));
            ShouldFail(BlockErrorKind.NoSpace, () => device.Write(32768, new byte[65536]));
            ShouldFail(BlockErrorKind.NoSpace, () => device.WriteZeroes(32768, 65536, mayUnmap: false));
            Assert.Equal(DeviceModel.Pattern(32768, seed: 1), ReadAll(device)[..32768]);
        }
        finally
        {
            Assert.Equal(0, Run("umount", mount));
        }
    }

    private static int Run(string program, params string[] arguments)
    {
        ProcessStartInfo start = new(program, arguments) { RedirectStandardError = true };
        using Process process = Process.Start(start)!;
        process.WaitForExit();
        return process.ExitCode;
    }
}

public sealed class DirectFileDeviceTests() : FileDeviceContract(direct: true)
{
    [Fact]
    public void The_alignment_is_told()
    {
        using BlockDevice device = Create(Size);
        Assert.InRange(device.Limits.RequestAlignment, 512, 4096);
    }

    /// <summary>A block that is rewritten in part must not take another's bytes back.</summary>
    [Fact]
    public void A_transfer_keeps_other_changes_of_parts_of_its_blocks_away()
    {
        using BlockDevice device = Create(Size);
        int block = device.Limits.RequestAlignment;
        Assert.False(device.TryBeginPlain(1, block, isWrite: false, out _));
        Assert.False(device.TryBeginPlain(0, block - 1, isWrite: true, out _));
        Assert.True(device.TryBeginPlain(0, block, isWrite: true, out PlainRun run));
        Assert.True(device.TryBeginPlain(0, block, isWrite: true, out PlainRun second));
        TestThread part = TestThread.Start(() => device.Write(1, [7]));
        part.ShouldWait("a transfer is under way in its block");
        PlainAccess.Move(run, DeviceModel.Pattern(block, seed: 1), destination: []);
        device.EndPlain(run);
        device.EndPlain(second);
        part.ShouldEnd();
        byte[] expected = DeviceModel.Pattern(block, seed: 1);
        expected[1] = 7;
        Assert.Equal(expected, ReadAll(device)[..block]);
    }
}

public sealed class FileTransferTests : IDisposable
{
    private readonly ScratchDirectory _scratch = new(null);

    public void Dispose() => _scratch.Dispose();

    [Fact]
    public void Only_what_lies_in_the_file_is_a_run()
    {
        string path = _scratch.NewFile(10_000);
        using (FileDevice device = FileDevice.Open(path))
        {
            Assert.True(device.TryBeginPlain(9_999, 1, isWrite: true, out PlainRun run));
            Assert.Equal(9_999, run.Offset);
            device.EndPlain(run);
            Assert.False(device.TryBeginPlain(9_999, 2, isWrite: true, out _));
            Assert.False(device.TryBeginPlain(10_000, 1, isWrite: false, out _));
            Assert.False(device.TryBeginPlain(0, 0, isWrite: false, out _));
        }

        using FileDevice readOnly = FileDevice.Open(path, readOnly: true);
        Assert.True(readOnly.TryBeginPlain(0, 4096, isWrite: false, out _));
        Assert.False(readOnly.TryBeginPlain(0, 4096, isWrite: true, out _));
    }

    [Fact]
    public void A_filter_lets_reads_through_and_no_writes()
    {
        using WriteThroughFilter filter = new(FileDevice.Open(_scratch.NewFile(8192)));
        Assert.True(filter.TryBeginPlain(0, 4096, isWrite: false, out PlainRun run));
        filter.EndPlain(run);
        Assert.False(filter.TryBeginPlain(0, 4096, isWrite: true, out _));
    }
}
