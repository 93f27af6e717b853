// SPDX-License-Identifier: MIT
using System.Diagnostics;
using System.Globalization;
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Device;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Protocols.Files;
using Xunit;
using static Qcow2Fuse.Testing.DeviceAssert;

namespace Qcow2Fuse.Block.Tests;

/// <summary>
/// A directory of images: its own links are followed where nobody else may enter or write, and guarded it opens only
/// files of the user, of root and of its owner, under names that can have been made by nobody else.
/// </summary>
public sealed class ImageFolderTests : IDisposable
{
    private const int Owner = 54321;
    private const int Stranger = 54322;

    private static readonly StorageAccess Reading = new(ReadOnly: true, Direct: false);

    private readonly ScratchDirectory _scratch = new();

    public ImageFolderTests()
    {
        Directory.CreateDirectory(_scratch.At("images/sub"));
        Directory.CreateDirectory(_scratch.At("vault"));
        Run("chmod", "-R", "go-w", _scratch.Path);
        File.WriteAllText(_scratch.At("vault/secret"), "secret");
        File.WriteAllText(_scratch.At("images/plain"), "plain");
        File.WriteAllText(_scratch.At("images/sub/plain"), "plain");
        File.CreateSymbolicLink(_scratch.At("images/link"), "../vault/secret");
        File.CreateSymbolicLink(_scratch.At("images/inside"), "sub/plain");
    }

    public void Dispose() => _scratch.Dispose();

    [Fact]
    public void Ones_own_links_are_followed_where_nobody_else_enters()
    {
        using ImageFolder folder = Open(isShared: false);
        Assert.False(folder.IsGuarded);
        Assert.Equal(["inside", "link", "plain"], NamesOf(folder).Order(StringComparer.Ordinal));
        Assert.Equal("secret", Read(folder.Open("link")));
        Assert.Equal(6, folder.Look("link")!.Value.Size);
        Assert.Equal("plain", Read(Reference(folder, "inside")));
    }

    [Fact]
    public void No_link_is_followed_where_others_enter()
    {
        using ImageFolder folder = Open(isShared: true);
        ShouldBeRefused(folder, "link");
        ShouldBeRefused(folder, "inside");
        Assert.Equal("plain", Read(folder.Open("plain")));
        Assert.NotNull(folder.Look("plain"));
        ShouldFail(BlockErrorKind.Policy, () => Reference(folder, "inside"));
        Assert.Equal("plain", Read(Reference(folder, "sub/plain")));
        Directory.CreateSymbolicLink(_scratch.At("images/down"), "sub");
        ShouldFail(BlockErrorKind.Policy, () => Reference(folder, "down/plain"));
    }

    [Theory]
    [InlineData("g+w")]
    [InlineData("o+w")]
    [InlineData("a+w,+t")]
    public void No_link_is_followed_where_others_write(string mode)
    {
        using ImageFolder folder = Open(isShared: false);
        Run("chmod", mode, _scratch.At("images"));
        Assert.True(folder.IsGuarded);
        ShouldBeRefused(folder, "link");
        Assert.Equal("plain", Read(folder.Open("plain")));
    }

    [SkippableFact]
    public void In_somebody_elses_directory_only_his_files_ones_own_and_roots_are_opened()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "only root gives files away");
        using ImageFolder folder = Open(isShared: false);
        File.WriteAllText(_scratch.At("images/his"), "his");
        File.WriteAllText(_scratch.At("images/strange"), "strange");
        File.WriteAllText(_scratch.At("images/sub/strange"), "strange");
        GiveTo(Owner, "images", "images/his", "images/sub");
        GiveTo(Stranger, "images/strange", "images/sub/strange");
        Assert.True(folder.IsGuarded);
        ShouldBeRefused(folder, "link");
        ShouldBeRefused(folder, "strange");
        Assert.Equal("plain", Read(folder.Open("plain")));
        Assert.Equal("his", Read(folder.Open("his")));
        Assert.Equal("his", Read(Reference(folder, "his")));
        foreach (ReferenceKind kind in Enum.GetValues<ReferenceKind>())
        {
            ShouldFail(BlockErrorKind.Policy, () => Reference(folder, "strange", kind));
            ShouldFail(BlockErrorKind.Policy, () => Reference(folder, "sub/strange", kind));
        }
    }

    [SkippableFact]
    public void A_hard_link_that_somebody_may_have_made_to_what_is_not_his_is_not_opened()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "only root gives files away");
        using ImageFolder folder = Open(isShared: false);
        Run("ln", _scratch.At("vault/secret"), _scratch.At("images/hard"));
        Assert.Equal("secret", Read(folder.Open("hard")));
        GiveTo(Owner, "images");
        ShouldBeRefused(folder, "hard");
        ShouldFail(BlockErrorKind.Policy, () => Reference(folder, "hard"));

        // Whoever owns the file may have as many names for it as he likes.
        GiveTo(Owner, "images/hard");
        Assert.Equal("secret", Read(folder.Open("hard")));
        Run("chmod", "g+w", _scratch.At("images"));
        ShouldBeRefused(folder, "hard");
    }

    [SkippableFact]
    public void A_directory_that_is_allowed_besides_is_the_one_it_was_at_the_start()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "only root gives files away");
        Directory.CreateDirectory(_scratch.At("allowed"));
        File.WriteAllText(_scratch.At("allowed/base"), "base");
        File.WriteAllText(_scratch.At("vault/base"), "secret");
        GiveTo(Stranger, "allowed", "allowed/base");
        string allowed = _scratch.At("allowed");
        using ImageFolder folder = ImageFolder.Open(_scratch.At("images"), isShared: true, [allowed]);
        Assert.Equal("base", Read(Reference(folder, "../allowed/base", allow: [allowed])));
        Directory.Move(allowed, _scratch.At("moved"));
        Directory.CreateSymbolicLink(allowed, _scratch.At("vault"));
        ShouldFail(BlockErrorKind.Policy, () => Reference(folder, "../allowed/base", allow: [allowed]));
        ShouldFail(BlockErrorKind.Policy, () => Reference(folder, "../vault/base", allow: [allowed]));
    }

    [Fact]
    public void The_directory_stays_the_one_that_was_opened()
    {
        using ImageFolder folder = Open(isShared: false);
        Directory.Move(_scratch.At("images"), _scratch.At("away"));
        Directory.CreateSymbolicLink(_scratch.At("images"), "vault");
        Assert.Equal(["inside", "link", "plain"], NamesOf(folder).Order(StringComparer.Ordinal));
        Assert.Equal("plain", Read(folder.Open("plain")));
        Assert.Null(folder.Look("secret"));
        FileStorage storage = new(keeper: null, folder);
        Assert.Equal("plain", Read(storage.OpenNamed(_scratch.At("images/plain"), Reading).Device));
        ShouldFail(BlockErrorKind.NotFound, () => storage.OpenNamed(_scratch.At("images/secret"), Reading));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Only_regular_files_are_opened_and_nothing_waits(bool isShared)
    {
        Run("mkfifo", _scratch.At("images/fifo"));
        File.CreateSymbolicLink(_scratch.At("images/device"), "/dev/null");
        using ImageFolder folder = Open(isShared);
        Task opening = Task.Run(() =>
        {
            foreach (string name in (string[])["fifo", "device", "sub"])
            {
                Assert.Null(folder.Look(name));
                Assert.Throws<BlockException>(() => folder.Open(name));
            }
        });
        Assert.True(opening.Wait(TimeSpan.FromSeconds(30)), "it waits for the other end");
        Assert.DoesNotContain("fifo", NamesOf(folder));
        Assert.DoesNotContain("sub", NamesOf(folder));
    }

    [SkippableFact]
    public void A_block_device_is_no_file_of_a_directory()
    {
        string? device = Directory.EnumerateFiles("/dev", "loop*").Concat(Directory.EnumerateFiles("/dev", "*da"))
            .FirstOrDefault(static path => path.StartsWith("/dev/loop", StringComparison.Ordinal)
                ? char.IsAsciiDigit(path[^1]) : path.Length == 8);
        Skip.If(device is null, "there is no block device");
        File.CreateSymbolicLink(_scratch.At("images/disk"), device);
        using ImageFolder folder = Open(isShared: false);
        Assert.Null(folder.Look("disk"));
        Assert.Throws<BlockException>(() => folder.Open("disk"));
    }

    private ImageFolder Open(bool isShared) => ImageFolder.Open(_scratch.At("images"), isShared, []);

    private FileDevice Reference(
        ImageFolder folder, string name, ReferenceKind kind = ReferenceKind.Backing,
        IReadOnlyList<string>? allow = null)
    {
        FileStorage storage = new(keeper: null, folder);
        using FileDevice image = (FileDevice)storage.OpenNamed(_scratch.At("images/plain"), Reading);
        return (FileDevice)storage.OpenReference(new StorageReference(image, name, kind, allow ?? []), Reading);
    }

    private static void ShouldBeRefused(ImageFolder folder, string name)
    {
        Assert.Null(folder.Look(name));
        Assert.NotNull(folder.RefusalOf(name));
        ShouldFail(BlockErrorKind.Policy, () => folder.Open(name));
    }

    [Fact]
    public void Names_end_where_the_memory_for_them_does()
    {
        using ImageFolder folder = Open(isShared: false);
        Assert.Equal(2, folder.Names(250, out bool isWhole).Count);
        Assert.False(isWhole);
        Assert.Empty(folder.Names(0, out isWhole));
        Assert.False(isWhole);
    }

    private static List<string> NamesOf(ImageFolder folder)
    {
        List<string> names = folder.Names(long.MaxValue, out bool isWhole);
        Assert.True(isWhole);
        return names;
    }

    private void GiveTo(int user, params string[] names)
    {
        foreach (string name in names)
            Run("chown", user.ToString(CultureInfo.InvariantCulture), _scratch.At(name));
    }

    private static void Run(string program, params string[] arguments)
    {
        using Process process = Process.Start(program, arguments);
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
    }

    private static string Read(BlockDevice device)
    {
        using (device)
            return System.Text.Encoding.ASCII.GetString(ReadAll(device));
    }
}
