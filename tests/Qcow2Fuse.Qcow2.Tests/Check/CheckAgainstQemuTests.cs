// SPDX-License-Identifier: MIT
using Qcow2Fuse.Testing;
using Xunit;

namespace Qcow2Fuse.Qcow2.Tests.Check;

/// <summary>The check against <c>qemu-img check</c>, and where it is stricter.</summary>
[Trait(Speed.Name, Speed.Slow)]
public sealed class CheckAgainstQemuTests
{
    private const int RandomDamages = 40;

    public static TheoryData<string> Kinds => [.. QemuImages.Kinds];

    public static TheoryData<string> DamageNames => [.. Damages.All.Keys];

    [SkippableTheory]
    [MemberData(nameof(Kinds))]
    public void Sound_images_are_clean(string kind)
    {
        QemuTools.RequireTool("qemu-img");
        DamagedImage image = new(QemuImages.Get(kind));
        Assert.Empty(image.Check().Findings);
        Assert.Equal(image.Theirs(), image.Ours());
    }

    [SkippableTheory]
    [MemberData(nameof(DamageNames))]
    public void Damage_is_found_as_QEMU_finds_it(string name)
    {
        QemuTools.RequireTool("qemu-img");
        Damage damage = Damages.All[name];
        DamagedImage image = new(QemuImages.Get(damage.Kind));
        damage.Do(image);

        Verdict theirs = image.Theirs();
        Verdict ours = image.Ours();

        Assert.NotEqual(0, ours.ExitCode);
        switch (damage.Agreement)
        {
            case Agreement.Same:
                Assert.Equal(theirs, ours);
                break;
            case Agreement.SameCode:
                Assert.Equal(theirs.ExitCode, ours.ExitCode);
                break;
            case Agreement.Stricter:
                Assert.True(theirs.ExitCode is 0 or 3, theirs.ToString());
                Assert.True(ours.ExitCode is 2 or 3 && ours != theirs, ours.ToString());
                break;
            default:
                Assert.Equal(1, theirs.ExitCode);
                Assert.Equal(2, ours.ExitCode);
                break;
        }
    }

    /// <summary>Refcounts and COPIED flags at random places; there are no two opinions about them.</summary>
    [SkippableTheory]
    [InlineData("plain")]
    [InlineData("extended")]
    [InlineData("snapshots")]
    [InlineData("bits2")]
    [InlineData("bits64")]
    public void Random_refcounts_and_flags_are_counted_alike(string kind)
    {
        QemuTools.RequireTool("qemu-img");
        byte[] sound = QemuImages.Get(kind);
        SeededRandom random = new(7);
        for (int i = 0; i < RandomDamages / 5; i++)
        {
            DamagedImage image = new(sound);
            for (int changes = 1 + random.Below(6); changes > 0; changes--)
                Change(image, random);
            Assert.Equal(image.Theirs(), image.Ours());
        }
    }

    private static void Change(DamagedImage image, SeededRandom random)
    {
        long clusters = image.End / image.ClusterSize;
        long host = random.Below(clusters) * image.ClusterSize;
        switch (random.Below(3))
        {
            case 0:
                image.SetRefcount(host, (ulong)random.Below(4));
                break;
            case 1:
                image.SetRefcount(host, 0);
                break;
            default:
                long entry = image.L2At(random.Pick(64L << 10, 96 << 10, 2 << 20));
                image.Poke(entry, image.Peek(entry) ^ DamagedImage.Copied);
                break;
        }
    }
}
