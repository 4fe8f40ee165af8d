"""Print the uncompressed kernel that is in a bzImage: Documentation/x86/boot.rst, protocol 2.08."""

import lzma
import struct
import subprocess
import sys
from pathlib import Path

ZSTD = b"\x28\xb5\x2f\xfd"
image = Path(sys.argv[1]).read_bytes()
(setup_sectors,) = struct.unpack_from("B", image, 0x1F1)
offset, length = struct.unpack_from("<II", image, 0x248)  # payload_offset, payload_length
start = (setup_sectors + 1) * 512 + offset
payload = image[start : start + length]
if payload.startswith(ZSTD):  # Debian 13; its last four bytes are the size
    kernel = subprocess.run(["zstd", "-dc"], input=payload[:-4], check=True, capture_output=True)
    sys.stdout.buffer.write(kernel.stdout)
else:
    sys.stdout.buffer.write(lzma.LZMADecompressor().decompress(payload))
