// SPDX-License-Identifier: MIT
using System.Reflection;
using Xunit.Sdk;

namespace Qcow2Fuse.Testing;

/// <summary>
/// Spreads a theory of <c>(int version, int clusterSize, bool extendedL2)</c> over versions 2 and 3, cluster sizes
/// from 512 bytes to 2 MiB, and extended L2 entries where clusters have at least 16 KiB.
/// </summary>
[AttributeUsage(AttributeTargets.Method)]
public sealed class Qcow2MatrixAttribute : DataAttribute
{
    /// <summary>The cluster sizes in bytes.</summary>
    public int[] ClusterSizes { get; init; } = [512, 4096, 16384, 65536, 2 << 20];

    /// <summary>Whether version 2 is among them.</summary>
    public bool WithVersion2 { get; init; } = true;

    /// <inheritdoc/>
    public override IEnumerable<object[]> GetData(MethodInfo testMethod)
    {
        foreach (int clusterSize in ClusterSizes)
        {
            if (WithVersion2)
                yield return [2, clusterSize, false];
            yield return [3, clusterSize, false];
            if (clusterSize >= 16384)
                yield return [3, clusterSize, true];
        }
    }
}
