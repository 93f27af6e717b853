// SPDX-License-Identifier: MIT
using Qcow2Fuse.EndToEnd.Tests.Mounting;
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.EndToEnd.Tests.Commands;

/// <summary>What people type, rightly or nearly so, and what a script puts around it.</summary>
public sealed class TypedWordsTests : MountTest
{
    [SkippableFact]
    public void Two_dashes_end_the_options()
    {
        NewImage("1M", name: "-x.qcow2");
        Run("info", "--", "-x.qcow2").ShouldSucceed();
        Run("snapshot", "-c", "one", "--", "-x.qcow2").ShouldSucceed();
        ProcessResult without = Run("info", "-x.qcow2");
        Assert.Equal(1, without.ExitCode);
        OneLine.Error(without, "./-x.qcow2");
        string mountPoint = NewMountPoint("-mnt");
        Run("mount", "-r", "--", "-x.qcow2", "-mnt").ShouldSucceed();
        Assert.True(File.Exists(Path.Combine(mountPoint, "-x.raw")));
        Run("umount", "--", "-mnt").ShouldSucceed();
        Run("--", "-x.qcow2", "-mnt").ShouldSucceed();
        Run("umount", "--", "-mnt").ShouldSucceed();
        Run("run", "--", "-x.qcow2", "true").ShouldSucceed();
    }

    [SkippableFact]
    public void Help_and_version_are_words_too()
    {
        Assert.Equal(Run("--help").ShouldSucceed().Output, Run("help").ShouldSucceed().Output);
        Assert.Equal(Run("mount", "--help").ShouldSucceed().Output, Run("help", "mount").ShouldSucceed().Output);
        Assert.Equal(Run("--version").ShouldSucceed().Output, Run("version").ShouldSucceed().Output);
    }

    [SkippableTheory]
    [InlineData("mout: is neither a command nor a file; did you mean mount?", "mout", "a.qcow2", "mnt")]
    [InlineData("snapshto: is neither a command nor a file; did you mean snapshot?", "help", "snapshto")]
    [InlineData("nothing: is neither a command nor a file", "nothing", "mnt")]
    [InlineData("unknown option --backing-fiel; did you mean --backing-file?", "mount", "--backing-fiel=x", "a", "b")]
    [InlineData("unknown option cahce; did you mean cache?", "mount", "-o", "cahce=none", "a.qcow2", "mnt")]
    [InlineData("--output xml: must be human or json", "info", "--output=xml", "a.qcow2")]
    [InlineData("--preallocation some: must be off or metadata or falloc or full", "resize", "--preallocation", "some",
        "a.qcow2", "1M")]
    public void A_word_that_is_not_known_is_one_line_that_says_what_is(string message, params string[] arguments)
    {
        ProcessResult result = Run(arguments);
        Assert.Equal(1, result.ExitCode);
        OneLine.Error(result, message.Replace("--backing-fiel;", "--backing-fiel=x;", StringComparison.Ordinal));
    }

    [SkippableFact]
    public void An_image_and_a_directory_that_have_changed_places()
    {
        RequireMounting();
        string image = NewImage("1M");
        string mountPoint = NewMountPoint();
        ProcessResult result = Run("mount", mountPoint, image);
        Assert.Equal(32, result.ExitCode);
        Assert.Equal(
            $"qcow2fuse: {mountPoint}: is a directory and cannot be mounted on a file\n"
            + "hint: the image comes first: qcow2fuse mount IMAGE DIR\n", result.Error);
    }

    [SkippableFact]
    public void What_a_mount_covers_is_told()
    {
        string image = NewImage("1M");
        string mountPoint = NewMountPoint();
        File.WriteAllText(Path.Combine(mountPoint, "letter"), "dear");
        string warning = $"qcow2fuse: warning: {mountPoint}: is not empty; what is in it is covered until it is "
            + "unmounted\n";
        Assert.Equal(warning, Run(image, mountPoint).ShouldSucceed().Error);
        Unmount(mountPoint);
        Assert.Equal("", Run(image, mountPoint, "-o", "nonempty").ShouldSucceed().Error);
    }

    [SkippableFact]
    public void An_image_that_its_user_has_mounted_is_told_where()
    {
        string image = NewImage("1M");
        string mountPoint = NewMountPoint();
        Mount(image, mountPoint);
        ProcessResult result = Run("mount", image, NewMountPoint("other"));
        Assert.Equal(32, result.ExitCode);
        Assert.EndsWith(
            $"hint: it is mounted: qcow2fuse umount {mountPoint}. Read-only look: add -o ro,force_share\n",
            result.Error, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void A_link_is_told_from_an_image_whose_backing_file_is_gone()
    {
        QemuTools.RequireTool("qemu-img");
        Directory.CreateDirectory(PathOf("store"));
        NewImage("1M", name: "store/base.qcow2");
        QemuTools.Img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", PathOf("store/top.qcow2"));
        File.CreateSymbolicLink(PathOf("link.qcow2"), "store/top.qcow2");
        ProcessResult result = Run("mount", PathOf("link.qcow2"), NewMountPoint());
        Assert.Equal(32, result.ExitCode);
        Assert.EndsWith(
            $"hint: {PathOf("link.qcow2")} is a link: name {PathOf("store/top.qcow2")} itself\n",
            result.Error, StringComparison.Ordinal);
    }

    [SkippableTheory]
    [InlineData("info {0}")]
    [InlineData("resize {0} +1M")]
    [InlineData("create new.qcow2 1M")]
    [InlineData("list --output=json")]
    [InlineData("check {0}")]
    [InlineData("--help")]
    public void A_full_or_closed_standard_output_is_told_when_the_work_is_done(string words)
    {
        string image = NewImage("1M");
        string program = FindProgram()!;
        foreach (string output in (string[])["/dev/full", "&-"])
        {
            string line = $"{program} {words.Replace("{0}", image, StringComparison.Ordinal)} >{output}";
            ProcessResult result = TryTool("bash", "-c", $"cd {WorkDirectory}; {line}");
            Assert.Equal((1, output), (result.ExitCode, output));
            OneLine.Error(result, "standard output: ");
        }

        if (words.StartsWith("resize", StringComparison.Ordinal))
            Assert.Contains("3 MiB", Run("info", image).Output, StringComparison.Ordinal);
        if (words.StartsWith("create", StringComparison.Ordinal))
            Run("check", "new.qcow2").ShouldSucceed();
    }

    /// <summary>The class library switches the keypad of a terminal to another mode when its console is used.</summary>
    [SkippableTheory]
    [InlineData("--help")]
    [InlineData("help mount")]
    [InlineData("version")]
    [InlineData("list --output=json")]
    [InlineData("info {0}")]
    [InlineData("check {0}")]
    [InlineData("snapshot -l {0}")]
    [InlineData("info missing.qcow2")]
    public void Nothing_but_text_reaches_a_terminal(string words)
    {
        QemuTools.RequireTool("script");
        string image = NewImage("1M");
        Run("snapshot", "-c", "one", image).ShouldSucceed();
        string line = $"{FindProgram()} {words.Replace("{0}", image, StringComparison.Ordinal)}";
        string shown = Tool("env", "TERM=xterm", "script", "-qec", line + " || true", "/dev/null");
        Assert.NotEmpty(shown);
        Assert.DoesNotContain('\u001B', shown);
    }

    [SkippableFact]
    public void Names_of_snapshots_are_told_apart_by_their_bytes()
    {
        string image = NewImage("1M");
        string script = """
            keep=$(printf 'caf\351'); drop=$(printf 'caf\350')
            "$1" snapshot -c "$keep" "$2" && "$1" snapshot -c "$drop" "$2" || exit 9
            "$1" snapshot -a "$(printf 'caf\377')" "$2" && exit 8
            "$1" snapshot -d "$drop" "$2" || exit 7
            qemu-img snapshot -l "$2" | grep -ac caf
            qemu-img snapshot -l "$2" | grep -aqF "$keep" && "$1" info --output=json "$2" | grep -o 'caf.*"'
            """;
        ProcessResult result = TryTool("env", "LC_ALL=C", "bash", "-c", script, "bash", FindProgram()!, image);
        Assert.Equal((0, "1\ncaf\\udce9\"\n"), (result.ExitCode, result.Output));
        Assert.Contains(@"caf\xff", result.Error, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void An_image_and_a_mount_point_that_are_no_text_are_mounted_and_worked_on()
    {
        NewImage("1M", name: "a.qcow2");
        RequireMounting();
        string script = """
            cd "$2"; image=$(printf 'b\351.qcow2'); place=$(printf 'm\350'); mv a.qcow2 "$image"; mkdir "$place"
            "$1" mount "$image" "$place" || exit 9
            stat -c %s "$place/$(printf 'b\351.raw')"
            "$1" list | grep -ac 'b\\xe9.qcow2.*m\\xe8'
            "$1" snapshot -c one "$image" || exit 8
            "$1" run "$image" -- true 2>/dev/null && exit 7
            "$1" umount "$place" || exit 6
            "$1" run "$image" -- sh -c 'stat -c %s "$QCOW2FUSE_DISK"'
            QCOW2FUSE_SOURCE=$image QCOW2FUSE_DIRECTORY=$place "$1" mount && "$1" umount "$image" || exit 5
            rm "$image" && rmdir "$place"
            """;
        ProcessResult result =
            TryTool("env", "LC_ALL=C", "bash", "-c", script, "bash", FindProgram()!, WorkDirectory);
        Assert.Equal((0, "1048576\n1\n1048576\n", ""), (result.ExitCode, result.Output, result.Error));
    }
}
