// SPDX-License-Identifier: MIT
namespace Qcow2Fuse.Testing.Model;

/// <summary>
/// A kind of operation of the model test. A new kind is one class that derives from this; it is found by itself.
/// </summary>
public abstract class ModelOperation
{
    /// <summary>All kinds there are, in the order of their names, as seeds depend on it.</summary>
    public static IReadOnlyList<ModelOperation> All { get; } =
    [
        .. typeof(ModelOperation).Assembly.GetTypes()
            .Where(type => type.IsSubclassOf(typeof(ModelOperation)) && !type.IsAbstract)
            .Select(type => (ModelOperation)Activator.CreateInstance(type)!)
            .OrderBy(operation => operation.Name, StringComparer.Ordinal),
    ];

    /// <summary>One word, unlike all others.</summary>
    public abstract string Name { get; }

    /// <summary>How often it is drawn, beside the weights of the others.</summary>
    public abstract int Weight { get; }

    /// <summary>The kind with a name.</summary>
    public static ModelOperation Named(string name) =>
        All.FirstOrDefault(operation => operation.Name == name)
        ?? throw new FormatException($"there is no operation \"{name}\"");

    /// <summary>Arguments for one step: by default any range.</summary>
    public virtual (long Offset, long Length) Draw(ModelDraw draw) => draw.Range();

    /// <summary>Whether it can be done on this image in its present state; steps that cannot are left out.</summary>
    public virtual bool CanRun(ModelState state, ModelStep step) => true;

    /// <summary>Does it, to the disk and to the array; throws <see cref="ModelException"/> where they differ.</summary>
    public abstract void Run(ModelState state, ModelStep step);
}

/// <summary>The disk does not do what a plain array of bytes does.</summary>
public sealed class ModelException(string message) : Exception(message);
