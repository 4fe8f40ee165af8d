"""Print the uncompressed kernel that is in a bzImage: Documentation/x86/boot.rst, protocol 2.08."""

import lzma
import struct
import sys
from pathlib import Path

image = Path(sys.argv[1]).read_bytes()
(setup_sectors,) = struct.unpack_from("B", image, 0x1F1)
offset, length = struct.unpack_from("<II", image, 0x248)  # payload_offset, payload_length
start = (setup_sectors + 1) * 512 + offset
sys.stdout.buffer.write(lzma.LZMADecompressor().decompress(image[start : start + length]))
