// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Bench;

/// <summary>The plain file itself.</summary>
public sealed class PlainFile : Subject
{
    /// <inheritdoc/>
    public override string Name => "raw file";

    /// <inheritdoc/>
    public override bool IsRaw => true;

    /// <inheritdoc/>
    public override string? Missing => null;

    /// <inheritdoc/>
    public override Served Serve(Job job, SceneFiles files) => new Shown(files.RawFor(job.Scene));

    private sealed class Shown(string file) : Served
    {
        public override string File => file;

        protected override void Stop()
        {
        }
    }
}
