// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Qcow2Fuse.Testing.Oracle;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Commands;

/// <summary><c>bitmap</c> beside <c>qemu-img bitmap</c>: the same command lines on two equal images.</summary>
public sealed class BitmapCommandTests : CommandTest
{
    public static TheoryData<string> CommandLines =>
    [
        "--add IMAGE new",
        "--add -g 512 IMAGE new",
        "--add -g 2G IMAGE new",
        "--add -g 0 IMAGE new",
        "--add -g 128k -g 32k IMAGE new",
        "--add -g 256 IMAGE new",
        "--add -g 3000 IMAGE new",
        "--add -g 4G IMAGE new",
        "--add -g foo IMAGE new",
        "--add IMAGE auto",
        "--add --add IMAGE new",
        "--add --disable IMAGE new",
        "--disable --add IMAGE new",
        "--add --clear --enable --remove IMAGE new",
        "--add --merge auto --merge fixed --disable IMAGE new",
        "--add --merge none IMAGE new",
        "--merge fixed IMAGE auto",
        "--merge auto IMAGE fixed",
        "--merge auto IMAGE auto",
        "--merge none IMAGE auto",
        "--merge auto IMAGE none",
        "--merge=fixed IMAGE auto",
        "--merge more -b OTHER -F qcow2 IMAGE auto",
        "--merge more -b OTHER IMAGE fixed",
        "--add -g 512 --merge more -b OTHER -F qcow2 IMAGE new",
        "--merge auto -b OTHER IMAGE auto",
        "--merge long -b LONGER IMAGE auto",
        "--remove IMAGE auto",
        "--remove IMAGE none",
        "--remove --remove IMAGE auto",
        "--clear IMAGE auto",
        "--clear IMAGE fixed",
        "--clear IMAGE none",
        "--enable IMAGE auto",
        "--enable IMAGE fixed",
        "--disable IMAGE auto",
        "--disable IMAGE fixed",
        "--disable --enable --disable IMAGE auto",
        "-f qcow2 --clear IMAGE auto",
        "-f raw --clear IMAGE auto",
        "IMAGE auto",
        "--add IMAGE",
        "--add IMAGE new more",
        "--clear -g 64k IMAGE auto",
        "--clear -b OTHER IMAGE auto",
        "--merge auto -F qcow2 IMAGE fixed",
        "--add missing.qcow2 new",
        "--add --bogus IMAGE new",
        "--add old.qcow2 new",
        "--add plain.raw -f raw new",
    ];

    [SkippableTheory]
    [MemberData(nameof(CommandLines))]
    [Trait(Speed.Name, Speed.Slow)]
    public void Exit_code_and_bitmaps_are_those_of_qemu_img(string commandLine)
    {
        MakeImages();
        ProcessResult theirs = ProcessRunner.Run("qemu-img", ["bitmap", .. Words("theirs.qcow2")], WorkDirectory);
        ProcessResult ours = Run(["bitmap", .. Words("ours.qcow2")]);

        Assert.Equal(theirs.ExitCode, ours.ExitCode);
        Assert.Equal("", ours.Output);
        if (ours.ExitCode == 0)
            Assert.Equal("", ours.Error);
        else
            OneLine.Error(ours);
        Assert.Equal(BitmapsOf("theirs.qcow2"), BitmapsOf("ours.qcow2"));
        QemuTools.ShouldPassCheck(PathOf("ours.qcow2"));

        string[] Words(string image) =>
        [
            .. commandLine.Split(' ').Select(word => word switch
            {
                "IMAGE" => image,
                "OTHER" => "other.qcow2",
                "LONGER" => "longer.qcow2",
                _ => word,
            }),
        ];
    }

    [SkippableFact]
    public void A_bitmap_that_was_in_use_when_its_writer_died_can_only_be_removed()
    {
        MakeImages();
        using (StorageDaemon.Open(PathOf("ours.qcow2")))
        {
            // Killed at the end of the block.
        }

        Assert.Contains("in-use", Run("info", "ours.qcow2").ShouldSucceed().Output, StringComparison.Ordinal);
        foreach (string action in (string[])["--clear", "--enable", "--disable", "--merge=fixed"])
        {
            ProcessResult refused = Run("bitmap", action, "ours.qcow2", "auto");
            Assert.Equal(1, refused.ExitCode);
            OneLine.Error(refused, "in use");
        }

        Run("bitmap", "--remove", "ours.qcow2", "auto").ShouldSucceed();
        Run("bitmap", "--remove", "ours.qcow2", "fixed").ShouldSucceed();
        Assert.Empty(BitmapsOf("ours.qcow2"));
        QemuTools.ShouldPassCheck(PathOf("ours.qcow2"));
    }

    [SkippableFact]
    public void A_name_with_control_characters_does_not_reach_the_terminal()
    {
        MakeImages();
        ProcessResult result = Run("bitmap", "--clear", "ours.qcow2", "a\u001b[2Jb\nc");
        Assert.Equal(1, result.ExitCode);
        OneLine.Error(result);
        Assert.DoesNotContain('\u001b', result.Error);
    }

    private void MakeImages()
    {
        QemuTools.RequireTool("qemu-img");
        string ours = PathOf("ours.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", ours, "3000k");
        QemuTools.Img("bitmap", "--add", ours, "auto");
        QemuTools.Io(ours, "write 0 100k", "write 2M 512");
        QemuTools.Img("bitmap", "--add", "-g", "4096", ours, "fixed");
        QemuTools.Io(ours, "write 1M 5k");
        QemuTools.Img("bitmap", "--disable", ours, "fixed");
        File.Copy(ours, PathOf("theirs.qcow2"));
        QemuTools.Img("create", "-q", "-f", "qcow2", PathOf("other.qcow2"), "3000k");
        QemuTools.Img("bitmap", "--add", "-g", "512", PathOf("other.qcow2"), "more");
        QemuTools.Io(PathOf("other.qcow2"), "write 1500k 3k", "write 2999k 1k");
        QemuTools.Img("create", "-q", "-f", "qcow2", PathOf("longer.qcow2"), "4000k");
        QemuTools.Img("bitmap", "--add", PathOf("longer.qcow2"), "long");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", PathOf("old.qcow2"), "1M");
        File.WriteAllBytes(PathOf("plain.raw"), new byte[1 << 20]);
    }

    private string[] BitmapsOf(string name)
    {
        using FileImage file = new(PathOf(name));
        return
        [
            .. PlainBitmaps.Read(new PlainReader(file)).Select(bitmap =>
                $"{bitmap.Name} {bitmap.Flags} 2^{bitmap.GranularityBits} "
                + string.Concat(bitmap.Bits!.Select(bit => bit ? '1' : '0'))),
        ];
    }
}
