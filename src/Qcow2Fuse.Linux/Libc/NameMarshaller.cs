// SPDX-License-Identifier: MIT
using System.Runtime.InteropServices;
using System.Runtime.InteropServices.Marshalling;
using System.Text;

namespace Qcow2Fuse.Linux.Libc;

/// <summary>Hands a name to the system as its bytes (<see cref="ByteText"/>).</summary>
[CustomMarshaller(typeof(string), MarshalMode.ManagedToUnmanagedIn, typeof(ManagedToUnmanagedIn))]
internal static unsafe class NameMarshaller
{
    /// <summary>A name for the time of one call.</summary>
    public ref struct ManagedToUnmanagedIn
    {
        private byte* _value;
        private bool _isAllocated;

        /// <summary>Bytes that the caller has ready.</summary>
        public static int BufferSize => 512;

        /// <summary>Takes the name.</summary>
        public void FromManaged(string? managed, Span<byte> buffer)
        {
            if (managed is null)
                return;
            int most = Encoding.UTF8.GetMaxByteCount(managed.Length) + 1;
            if (most > buffer.Length)
            {
                _value = (byte*)NativeMemory.Alloc((nuint)most);
                _isAllocated = true;
                buffer = new Span<byte>(_value, most);
            }
            else
            {
                // The caller has it on its stack.
                _value = (byte*)System.Runtime.CompilerServices.Unsafe.AsPointer(
                    ref MemoryMarshal.GetReference(buffer));
            }

            buffer[ByteText.Encode(managed, buffer)] = 0;
        }

        /// <summary>The bytes with a zero behind them; null for null.</summary>
        public readonly byte* ToUnmanaged() => _value;

        /// <summary>Gives their memory back.</summary>
        public readonly void Free()
        {
            if (_isAllocated)
                NativeMemory.Free(_value);
        }
    }
}
