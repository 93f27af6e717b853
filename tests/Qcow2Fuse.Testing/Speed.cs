// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Testing;

/// <summary>
/// The trait that says which runs a test is left out of: <c>[Trait(Speed.Name, Speed.Slow)]</c>. <c>make test</c> runs
/// all of them.
/// </summary>
public static class Speed
{
    /// <summary>The name of the trait.</summary>
    public const string Name = "Speed";

    /// <summary>In every tenth round of <c>make shake</c>, and not in <c>make quick</c>.</summary>
    public const string Slow = "Slow";

    /// <summary>
    /// With a number of rounds that the environment sets: a tenth in <c>make shake</c>, and not in <c>make quick</c>.
    /// </summary>
    public const string Scaled = "Scaled";

    /// <summary>A test of the built program that <c>make quick</c> runs; it runs no others of that project.</summary>
    public const string Quick = "Quick";
}
