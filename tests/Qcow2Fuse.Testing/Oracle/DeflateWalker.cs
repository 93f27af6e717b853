// SPDX-License-Identifier: MIT

namespace Qcow2Fuse.Testing.Oracle;

/// <summary>
/// Reads a raw deflate stream symbol by symbol (RFC 1951) and tells how far back its matches reach; the bytes it makes
/// come along. Slow and simple; damaged streams raise <see cref="PlainReaderException"/>.
/// </summary>
public sealed class DeflateWalker
{
    private static readonly int[] LengthBase =
    [
        3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227,
        258,
    ];

    private static readonly int[] LengthBits =
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];

    private static readonly int[] DistanceBase =
    [
        1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097,
        6145, 8193, 12289, 16385, 24577,
    ];

    private static readonly int[] CodeLengthOrder =
        [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

    private readonly byte[] _stream;
    private readonly List<byte> _output = [];
    private int _bit;

    private DeflateWalker(byte[] stream) => _stream = stream;

    /// <summary>The largest distance of any match, and all the bytes.</summary>
    public static (int DistanceMax, byte[] Bytes) Walk(ReadOnlySpan<byte> stream)
    {
        DeflateWalker walker = new(stream.ToArray());
        int most = 0;
        bool last;
        do
        {
            last = walker.Bits(1) == 1;
            most = Math.Max(most, walker.Block(walker.Bits(2)));
        }
        while (!last);
        return (most, walker._output.ToArray());
    }

    private int Block(int kind)
    {
        switch (kind)
        {
            case 0:
                _bit = (_bit + 7) & ~7;
                int length = Bits(16);
                if (Bits(16) != (length ^ 0xffff))
                    throw new PlainReaderException("the length of a stored block and its complement differ");
                for (int i = 0; i < length; i++)
                    _output.Add((byte)Bits(8));
                return 0;
            case 1:
                int[] literals = new int[288];
                for (int i = 0; i < literals.Length; i++)
                    literals[i] = i switch { < 144 => 8, < 256 => 9, < 280 => 7, _ => 8 };
                int[] distances = new int[30];
                Array.Fill(distances, 5);
                return Symbols(new Code(literals), new Code(distances));
            case 2:
                return DynamicBlock();
            default:
                throw new PlainReaderException("a block of reserved type");
        }
    }

    private int DynamicBlock()
    {
        int literals = Bits(5) + 257;
        int distances = Bits(5) + 1;
        int codes = Bits(4) + 4;
        int[] codeLengths = new int[19];
        for (int i = 0; i < codes; i++)
            codeLengths[CodeLengthOrder[i]] = Bits(3);
        Code lengthCode = new(codeLengths);
        List<int> lengths = [];
        while (lengths.Count < literals + distances)
        {
            int symbol = Symbol(lengthCode);
            (int value, int times) = symbol switch
            {
                < 16 => (symbol, 1),
                16 => (lengths[^1], 3 + Bits(2)),
                17 => (0, 3 + Bits(3)),
                _ => (0, 11 + Bits(7)),
            };
            lengths.AddRange(Enumerable.Repeat(value, times));
        }

        int[] all = [.. lengths];
        return Symbols(new Code(all[..literals]), new Code(all[literals..]));
    }

    private int Symbols(Code literals, Code distances)
    {
        int most = 0;
        while (true)
        {
            int symbol = Symbol(literals);
            if (symbol == 256)
                return most;
            if (symbol < 256)
            {
                _output.Add((byte)symbol);
                continue;
            }

            int length = LengthBase[symbol - 257] + Bits(LengthBits[symbol - 257]);
            int index = Symbol(distances);
            int distance = DistanceBase[index] + Bits(Math.Max(0, (index / 2) - 1));
            if (distance > _output.Count)
                throw new PlainReaderException($"a match reaches back {distance} bytes, before the start");
            most = Math.Max(most, distance);
            for (int i = 0; i < length; i++)
                _output.Add(_output[^distance]);
        }
    }

    private int Symbol(Code code)
    {
        int value = 0;
        for (int length = 1; length < 16; length++)
        {
            value = (value << 1) | Bits(1);
            if (code.Symbols.TryGetValue((length, value), out int symbol))
                return symbol;
        }

        throw new PlainReaderException("no code of 15 bits or less matches");
    }

    private int Bits(int count)
    {
        int value = 0;
        for (int i = 0; i < count; i++, _bit++)
        {
            if (_bit >> 3 >= _stream.Length)
                throw new PlainReaderException("the stream ends too early");
            value |= ((_stream[_bit >> 3] >> (_bit & 7)) & 1) << i;
        }

        return value;
    }

    /// <summary>A canonical Huffman code from the lengths of its symbols.</summary>
    private sealed class Code
    {
        public Code(int[] lengths)
        {
            int next = 0;
            for (int length = 1; length < 16; length++, next <<= 1)
            {
                for (int symbol = 0; symbol < lengths.Length; symbol++)
                {
                    if (lengths[symbol] == length)
                        Symbols.Add((length, next++), symbol);
                }
            }
        }

        public Dictionary<(int Length, int Value), int> Symbols { get; } = [];
    }
}
