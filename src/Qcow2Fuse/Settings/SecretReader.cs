// SPDX-License-Identifier: MIT
using Qcow2Fuse.Block.Chain;
using Qcow2Fuse.Block.Errors;
using Qcow2Fuse.Linux.Crypto;
using Qcow2Fuse.Linux.Libc;
using Qcow2Fuse.Linux.Processes;

namespace Qcow2Fuse.Settings;

/// <summary>
/// Reads passphrases. All bytes count, a newline at the end too, as in QEMU's <c>secret,file=</c>; what was read is
/// wiped from memory as soon as it is not needed.
/// </summary>
internal static class SecretReader
{
    /// <summary>The longest passphrase in bytes; a pipe holds as much without a reader.</summary>
    public const int BytesMax = 65536;

    private const int StandardInput = 0;
    private const string CredentialsVariable = "CREDENTIALS_DIRECTORY";

    /// <summary>Reads all sources in their order; null for none.</summary>
    /// <exception cref="BlockException">One cannot be read, is empty or too long.</exception>
    public static ImageSecrets? Read(IReadOnlyList<SecretSource> sources, TimeSpan? timeMax = null)
    {
        if (sources.Count == 0)
            return null;
        ProcessCalls.HideMemory();
        List<SecretMemory> passphrases = [];
        using SecretMemory buffer = new(BytesMax + 1);
        try
        {
            foreach (SecretSource source in sources)
                passphrases.Add(new SecretMemory(buffer.Span[..Read(source, buffer.Span)]));
        }
        catch
        {
            passphrases.ForEach(static passphrase => passphrase.Dispose());
            throw;
        }

        return new ImageSecrets(passphrases)
        {
            TimeMax = timeMax ?? TimeSpan.MaxValue,
        };
    }

    /// <summary>
    /// Standard input, for the process behind a mount, which has a pipe instead; null if no secret comes from there, or
    /// an empty one.
    /// </summary>
    /// <exception cref="BlockException">It cannot be read, or is too long.</exception>
    public static SecretMemory? ReadInput(IReadOnlyList<SecretSource> sources)
    {
        if (!sources.Any(static source => source.Descriptor == StandardInput))
            return null;
        ProcessCalls.HideMemory();
        using SecretMemory buffer = new(BytesMax + 1);
        int length = ReadAll(StandardInput, "fd:0", buffer.Span);
        return length == 0 ? null : new SecretMemory(buffer.Span[..length]);
    }

    private static int Read(SecretSource source, Span<byte> buffer)
    {
        int length = source.Kind switch
        {
            SecretKind.Descriptor => ReadDescriptor(source.Descriptor, buffer),
            SecretKind.Credential => ReadFile(CredentialPath(source.Name), buffer),
            _ => ReadFile(source.Name, buffer),
        };
        return length > 0
            ? length
            : throw new BlockException(BlockErrorKind.InvalidFormat, $"{NameOf(source)}: the secret is empty");
    }

    private static string NameOf(SecretSource source) => source.Kind switch
    {
        SecretKind.Descriptor => $"fd:{source.Name}",
        SecretKind.Credential => $"credential:{Printable.Text(source.Name)}",
        _ => Printable.Text(source.Name),
    };

    private static string CredentialPath(string name)
    {
        string? directory = ProcessEnvironment.Get(CredentialsVariable);
        if (string.IsNullOrEmpty(directory))
            throw new BlockException(
                BlockErrorKind.NotFound,
                $"credential:{Printable.Text(name)}: there are no credentials here ({CredentialsVariable} is not set)",
                cause: FailureCode.CredentialsMissing);
        return Path.Combine(directory, name);
    }

    private static int ReadFile(string path, Span<byte> buffer)
    {
        string shown = Printable.Text(path);
        int fd = LinuxFile.Open(path, OpenFlags.ReadOnly | OpenFlags.CloseOnExec);
        if (fd < 0)
            throw Unreadable(shown, -fd);
        try
        {
            return ReadAll(fd, shown, buffer);
        }
        finally
        {
            _ = LinuxFile.Close(fd);
        }
    }

    /// <summary>
    /// Reads to the end and closes the descriptor: nothing else that this process starts shall have it. One that the
    /// runtime opened for itself is not meant, and has the flag close-on-exec, which an inherited one never has.
    /// </summary>
    private static int ReadDescriptor(int fd, Span<byte> buffer)
    {
        string shown = $"fd:{fd}";
        if (!LinuxStream.IsInherited(fd))
            throw new BlockException(
                BlockErrorKind.NotFound, $"{shown}: the caller has not opened it",
                cause: new(FailureCode.DescriptorNotOpened) { Name = $"{fd}" });
        int length = ReadAll(fd, shown, buffer);
        if (fd != StandardInput)
            _ = LinuxFile.Close(fd);
        return length;
    }

    private static int ReadAll(int fd, string shown, Span<byte> buffer)
    {
        int length = 0;
        while (length < buffer.Length)
        {
            int result = LinuxStream.Read(fd, buffer[length..]);
            if (result < 0)
                throw Unreadable(shown, -result);
            if (result == 0)
                return length;
            length += result;
        }

        throw new BlockException(
            BlockErrorKind.TooLarge, $"{shown}: the secret is longer than {BytesMax} bytes");
    }

    private static BlockException Unreadable(string shown, int errno) => new(
        errno == Errno.ENOENT ? BlockErrorKind.NotFound : BlockErrorKind.PermissionDenied,
        $"{shown}: the secret cannot be read: {Errno.Text(errno)}");
}
