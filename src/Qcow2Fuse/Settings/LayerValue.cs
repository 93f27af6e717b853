// SPDX-License-Identifier: MIT
using System.Globalization;

namespace Qcow2Fuse.Settings;

/// <summary>
/// The value of an option that is meant for one layer of a chain, <c>@N=VALUE</c>, or for the image itself. N is the
/// number that the layer has in <c>layers/</c>; a file whose name begins with @ is written <c>./@...</c>.
/// </summary>
internal static class LayerValue
{
    private const int LayersMax = 64;

    /// <summary>Adds a value to those of layers, or gives it to <paramref name="top"/>.</summary>
    /// <exception cref="FormatException">It begins with @, and is nothing of this form.</exception>
    public static void Add(string text, Dictionary<int, string> layers, Action<string> top)
    {
        if (!text.StartsWith('@'))
        {
            top(text);
            return;
        }

        int equals = text.IndexOf('=', StringComparison.Ordinal);
        bool isLayer = int.TryParse(
            text.AsSpan(1, Math.Max(equals - 1, 0)), NumberStyles.None, CultureInfo.InvariantCulture, out int number);
        if (!isLayer || number >= LayersMax || equals + 1 == text.Length)
            throw new FormatException("must be @N=VALUE, N a layer's number (a file whose name begins with @: ./@...)");
        layers[number] = text[(equals + 1)..];
    }
}
