// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Testing.Model;

/// <summary>
/// One operation of a case with its arguments. It means the same whatever steps are left out before it.
/// </summary>
/// <param name="Number">Its number in the case, from 1; also the tag of what it writes.</param>
/// <param name="Kind">The name of a <see cref="ModelOperation"/>.</param>
/// <param name="Offset">First byte; what lies past the end of the disk is cut off when it runs.</param>
/// <param name="Length">Bytes, or a new size; an operation may ignore it.</param>
public sealed record ModelStep(int Number, string Kind, long Offset, long Length)
{
    /// <summary>Reads what <see cref="ToString"/> prints.</summary>
    /// <exception cref="FormatException">It is something else.</exception>
    public static ModelStep Parse(string text)
    {
        string[] words = text.Split([':', ' ', '+'], StringSplitOptions.RemoveEmptyEntries);
        if (words.Length != 4)
            throw new FormatException($"\"{text}\" is not NUMBER:KIND OFFSET+LENGTH");
        return new ModelStep(
            int.Parse(words[0], CultureInfo.InvariantCulture), words[1],
            long.Parse(words[2], CultureInfo.InvariantCulture), long.Parse(words[3], CultureInfo.InvariantCulture));
    }

    /// <inheritdoc/>
    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture, $"{Number}:{Kind} {Offset}+{Length}");
}
