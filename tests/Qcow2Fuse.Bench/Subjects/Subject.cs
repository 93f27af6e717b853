// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Bench;

/// <summary>Somebody who can show an image as a file.</summary>
public abstract class Subject
{
    /// <summary>What its column is called.</summary>
    public abstract string Name { get; }

    /// <summary>Whether it is the plain file, the limit of all others.</summary>
    public virtual bool IsRaw => false;

    /// <summary>Whether it is this project.</summary>
    public virtual bool IsOwn => false;

    /// <summary>Why it cannot take part on this machine, or null.</summary>
    public abstract string? Missing { get; }

    /// <summary>Shows the image of a job. When this returns, the file answers.</summary>
    /// <exception cref="InvalidOperationException">It cannot.</exception>
    public abstract Served Serve(Job job, SceneFiles files);
}

/// <summary>An image that is shown until this is disposed.</summary>
public abstract class Served : IDisposable
{
    /// <summary>The file.</summary>
    public abstract string File { get; }

    /// <summary>The processes that work for it.</summary>
    public virtual IReadOnlyList<int> Processes => [];

    /// <summary>Ends it; all data is in the image then.</summary>
    public void Dispose()
    {
        Stop();
        GC.SuppressFinalize(this);
    }

    /// <summary>Ends it.</summary>
    protected abstract void Stop();
}
