// SPDX-License-Identifier: MIT
using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using System.Security.Cryptography;
using Qcow2Fuse.Fuse.Session;
using Qcow2Fuse.Linux.Libc;

namespace Qcow2Fuse.Hosting.Restart;

/// <summary>What a mount is, for the process that goes on with it.</summary>
/// <param name="Source">Absolute path of the image.</param>
/// <param name="MountPoint">Where it is mounted, without symbolic links.</param>
/// <param name="Device">Number of the file system as "major:minor".</param>
/// <param name="IsFile">Whether the mount point is a file.</param>
/// <param name="Settings">Hash of the settings it was made with.</param>
/// <param name="Files">The kept files: number in the store, question, path.</param>
internal sealed record RestartFacts(
    string Source, string MountPoint, string Device, bool IsFile, string Settings,
    IReadOnlyList<(int Number, string Key, string Path)> Files);

/// <summary>
/// The memory that outlives the process (a memfd beside the kept descriptors): what the mount is, which generation of
/// processes serves it, and whether anything acknowledged is not yet durable. The numbers are read and written in
/// place, so that they are right at whatever moment the process is killed.
/// </summary>
/// <remarks>
/// Little-endian. 0: magic, 8: version, 12: generation, 16: generation below which handles are broken, 20: length of
/// the text, 24: changes begun, 32: changes known durable, 40: protocol's minor version, 44: largest write,
/// 48: features of INIT, 64: SHA-256 of the text, 96: the text, strings that end in NUL, 61440:
/// <see cref="WrittenNodes"/>, 65536: <see cref="NewerRanges"/>, which the memory
/// of an earlier version of the program does not have.
/// </remarks>
internal sealed class RestartState : IDisposable
{
    private const int FirstLength = 64 * 1024;
    private const int Length = FirstLength + NewerRanges.Length;
    private const long Magic = 0x54525453_46324351; // "QC2FSTRT"
    private const int Version = 1;
    private const int FixedStrings = 5;

    private const int VersionAt = 8;
    private const int GenerationAt = 12;
    private const int BrokenBelowAt = 16;
    private const int TextLengthAt = 20;
    private const int BegunAt = 24;
    private const int DurableAt = 32;
    private const int MinorAt = 40;
    private const int MaxWriteAt = 44;
    private const int FeaturesAt = 48;
    private const int HashAt = 64;
    private const int TextAt = 96;
    private const int WrittenNodesAt = FirstLength - WrittenNodes.Length;

    private readonly SharedPage _page;

    private RestartState(SharedPage page, bool isNew)
    {
        _page = page;
        NewerRanges = page.Bytes.Length < Length ? null : new NewerRanges(page, FirstLength);
        WrittenNodes = new WrittenNodes(page, WrittenNodesAt, isNew);
    }

    /// <summary>The descriptor of the memory.</summary>
    public int Descriptor => _page.Descriptor;

    /// <summary>Which process since the mount this is, 1 for the first. Handles carry it.</summary>
    public uint Generation
    {
        get => (uint)Volatile.Read(ref _page.Int(GenerationAt));
        private set => Volatile.Write(ref _page.Int(GenerationAt), (int)value);
    }

    /// <summary>Handles of earlier generations than this one may have lost writes.</summary>
    public uint BrokenBelow
    {
        get => (uint)Volatile.Read(ref _page.Int(BrokenBelowAt));
        private set => Volatile.Write(ref _page.Int(BrokenBelowAt), (int)value);
    }

    /// <summary>Which nodes are open for writing.</summary>
    public WrittenNodes WrittenNodes { get; }

    /// <summary>
    /// What was changed through one file while the kernel may hold older pages of another; null in a memory that an
    /// earlier version of the program made.
    /// </summary>
    public NewerRanges? NewerRanges { get; }

    /// <summary>Changes of the disk that were begun.</summary>
    public ref long Begun => ref _page.Long(BegunAt);

    /// <summary>The value of <see cref="Begun"/> up to which all changes are durable.</summary>
    public ref long Durable => ref _page.Long(DurableAt);

    /// <summary>Whether a change may have been acknowledged that is not durable.</summary>
    public bool IsDirty => Volatile.Read(ref Begun) != Volatile.Read(ref Durable);

    /// <summary>What was agreed upon with the kernel.</summary>
    public FuseResumption Resumption
    {
        get => new((uint)_page.Int(MinorAt), (ulong)_page.Long(FeaturesAt), _page.Int(MaxWriteAt));
        set
        {
            _page.Int(MinorAt) = (int)value.Minor;
            _page.Int(MaxWriteAt) = value.MaxWrite;
            _page.Long(FeaturesAt) = (long)value.Features;
        }
    }

    /// <summary>Makes the memory of a new mount.</summary>
    /// <exception cref="IOException">There is no memory.</exception>
    public static RestartState Create()
    {
        int result = SharedPage.Create("qcow2fuse-state", Length, out SharedPage? page);
        if (page is null)
            throw new IOException($"memfd_create: {Errno.Text(-result)}");
        page.Long(0) = Magic;
        page.Int(VersionAt) = Version;
        return new RestartState(page, isNew: true) { Generation = 1 };
    }

    /// <summary>Takes over the memory of an earlier process. Null, with the descriptor closed, if it is not one that
    /// this program understands.</summary>
    public static RestartState? Open(int descriptor)
    {
        if (SharedPage.Open(descriptor, Length, out SharedPage? page) < 0)
            _ = SharedPage.Open(descriptor, FirstLength, out page);
        if (page is null)
        {
            _ = LinuxFile.Close(descriptor);
            return null;
        }

        RestartState state = new(page, isNew: false);
        if (page.Long(0) == Magic && page.Int(VersionAt) == Version && state.TryReadFacts(out _)
            && state.Resumption.CanBeServed)
        {
            return state;
        }

        state.Dispose();
        return null;
    }

    /// <summary>
    /// A new process takes over: handles of all before it are of an earlier generation, and if a change may be lost,
    /// they are broken. Whatever moment the process dies at, the next one finds the same.
    /// </summary>
    /// <returns>Whether a change may be lost.</returns>
    public bool BeginGeneration()
    {
        bool isDirty = IsDirty;
        if (isDirty)
        {
            BrokenBelow = Generation + 1;
            Thread.MemoryBarrier();
        }

        Generation++;
        Thread.MemoryBarrier();
        Volatile.Write(ref Durable, Volatile.Read(ref Begun));
        return isDirty;
    }

    /// <summary>Writes down what the mount is. False if it does not fit.</summary>
    public bool TryWriteFacts(RestartFacts facts)
    {
        List<string> strings =
            [facts.Source, facts.MountPoint, facts.Device, facts.IsFile ? "file" : "directory", facts.Settings];
        foreach ((int number, string key, string path) in facts.Files)
            strings.AddRange([number.ToString(System.Globalization.CultureInfo.InvariantCulture), key, path]);
        byte[] text = ByteText.Encode(string.Concat(strings.Select(static one => one + '\0')));
        if (text.Length > WrittenNodesAt - TextAt)
            return false;
        text.CopyTo(_page.Bytes[TextAt..]);
        SHA256.HashData(text, _page.Bytes.Slice(HashAt, SHA256.HashSizeInBytes));
        BinaryPrimitives.WriteInt32LittleEndian(_page.Bytes[TextLengthAt..], text.Length);
        return true;
    }

    /// <summary>Reads what the mount is. False where it was not written down to the end.</summary>
    public bool TryReadFacts([NotNullWhen(true)] out RestartFacts? facts)
    {
        facts = null;
        int length = BinaryPrimitives.ReadInt32LittleEndian(_page.Bytes[TextLengthAt..]);
        if (length is <= 0 or > WrittenNodesAt - TextAt)
            return false;
        Span<byte> text = _page.Bytes.Slice(TextAt, length);
        if (!SHA256.HashData(text).AsSpan().SequenceEqual(_page.Bytes.Slice(HashAt, SHA256.HashSizeInBytes)))
            return false;
        string[] strings = ByteText.Decode(text).Split('\0')[..^1];
        if (strings.Length < FixedStrings || (strings.Length - FixedStrings) % 3 != 0)
            return false;
        List<(int, string, string)> files = [];
        for (int i = FixedStrings; i < strings.Length; i += 3)
        {
            if (!int.TryParse(strings[i], System.Globalization.CultureInfo.InvariantCulture, out int number))
                return false;
            files.Add((number, strings[i + 1], strings[i + 2]));
        }

        bool isFile = string.Equals(strings[3], "file", StringComparison.Ordinal);
        facts = new RestartFacts(strings[0], strings[1], strings[2], isFile, strings[4], files);
        return true;
    }

    /// <inheritdoc/>
    public void Dispose() => _page.Dispose();
}
