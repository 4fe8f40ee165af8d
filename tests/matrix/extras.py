"""Programs that `make matrix` alone runs: it installs them, `make test` does without."""

from __future__ import annotations

import struct
from typing import Any

from matrix import acts, windows
from matrix.programs import Program

PYTHON = "env PYTHONPATH={programs}/python /usr/bin/python3"
NODE = """env NODE_PATH={{programs}}/node{0}/node_modules node -e '
const {{SerialPort}} = require("serialport");
const port = new SerialPort({{path: "/dev/ttyS7", baudRate: 115200}}, error => {{
    if (error) {{ console.log(error.message); process.exit(1); }}
    port.write("hello");
}});
port.on("data", data => {{ console.log("" + data); port.close(); }});'"""
COMPILED = "{programs}/compiled"  # from compiled/
JAVA = f"java -cp /usr/share/java/jssc.jar:{COMPILED}/java"
HELLO = ((rb"hello", b"world"),)
LINE = ((rb"hello[\r\n]*", b"world\n"),)


def _modbus(*words: int) -> bytes:
    """A frame of Modbus RTU, with its checksum: Modbus over Serial Line 1.02, 6.2.2."""
    crc = 0xFFFF
    for word in words:
        crc ^= word
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return bytes(words) + struct.pack("<H", crc)


# Read holding register 0 of station 1, which is 0x1234.
MODBUS = ((_modbus(1, 3, 0, 0, 0, 1), _modbus(1, 3, 2, 0x12, 0x34)),)
# The bootloader of an Arduino: AVR061, STK500.
STK500 = (
    (rb"0 ", b"\x14\x10"),
    (rb"A. ", b"\x14\x01\x10"),
    (rb"u ", b"\x14\x1e\x95\x0f\x10"),
    (rb"V.{4} ", b"\x14\x00\x10"),
    (rb"[BE].* ", b"\x14\x10"),
    (rb"[PQ] ", b"\x14\x10"),
)
# The bootloader of an STM32F103: AN3155.
AN3155 = (
    (rb"\x7f", b"\x79"),
    (rb"\x00\xff", b"\x79\x0b\x22\x00\x01\x02\x11\x21\x31\x43\x63\x73\x82\x92\x79"),
    (rb"\x01\xfe", b"\x79\x22\x00\x00\x79"),
    (rb"\x02\xfd", b"\x79\x01\x04\x10\x79"),
)
# A radio by Kenwood, model TS-2000.
KENWOOD = (
    (rb"ID;", b"ID019;"),
    (rb"IF;", b"IF00014250000    +0000000000020000000;"),
    (rb"F[AB];", b"FA00014250000;"),
    (rb"PS;", b"PS1;"),
    (rb"SA;", b"SA0000000;"),
    (rb"AI;", b"AI0;"),
    (rb"KS;", b"KS010;"),
    (rb"..\d;", b""),
)
# A modem with its echo on: 3GPP TS 27.007.
MODEM = (
    (rb"(AT\+CGMI)\r", b"\\1\r\r\nttybroker\r\n\r\nOK\r\n"),
    (rb"(AT\+CGMM)\r", b"\\1\r\r\nmatrix\r\n\r\nOK\r\n"),
    (rb"(AT\+CGMR)\r", b"\\1\r\r\n1.0\r\n\r\nOK\r\n"),
    (rb"(AT\+CGSN)\r", b"\\1\r\r\n123456789012345\r\n\r\nOK\r\n"),
    (rb"(AT\+CSCS\?)\r", b'\\1\r\r\n+CSCS: "GSM"\r\n\r\nOK\r\n'),
    (rb"(AT\+CSCS=\?)\r", b'\\1\r\r\n+CSCS: ("GSM")\r\n\r\nOK\r\n'),
    (rb"([^\r]*)\r", b"\\1\r\r\nOK\r\n"),
)

# A UPS that speaks Megatec's protocol.
MEGATEC = (
    (rb"Q1\r", b"(226.0 195.0 226.0 014 49.0 27.5 30.0 00001000\r"),
    (rb"F\r", b"#230.0 002 024.0 50.0\r"),
    (rb"I\r", b"#ttybroker       matrix     1.0       \r"),
)

AIOSERIAL = """
import aioserial, asyncio
async def main():
    port = aioserial.AioSerial("/dev/ttyS7", 115200)
    await port.write_async(b"hello")
    print(await port.read_async(5))
asyncio.run(main())"""
ASYNCIO = """
import asyncio, {0}
async def main():
    reader, writer = await {0}.open_serial_connection(url="/dev/ttyS7", baudrate=115200)
    writer.write(b"hello")
    print(await reader.readexactly(5))
    writer.close()
asyncio.run(main())"""
SERIALX = """
import serialx
with serialx.serial_for_url("/dev/ttyS7", baudrate=115200) as port:
    port.write(b"hello")
    print(port.read(5))"""
LABGRID = """
from labgrid import Target
from labgrid.driver import SerialDriver
from labgrid.resource import RawSerialPort
target = Target("board")
RawSerialPort(target, name=None, port="/dev/ttyS7", speed=115200)
driver = SerialDriver(target, name=None)
for _ in "12":
    target.activate(driver)
    driver.write(b"hello")
    text = b""
    while len(text) < 5:
        text += driver.read(size=1, timeout=5)
    print(text)
    target.deactivate(driver)"""
MINIMALMODBUS = """
import minimalmodbus
device = minimalmodbus.Instrument("/dev/ttyS7", 1)
device.close_port_after_each_call = True
print([device.read_register(0) for _ in "123"])"""
PYMODBUS = """
from pymodbus.client import ModbusSerialClient
with ModbusSerialClient("/dev/ttyS7", baudrate=115200) as client:
    print(client.read_holding_registers(0, count=1, device_id=1).registers)"""
PERL = """
use Device::SerialPort;
my $port = Device::SerialPort->new("/dev/ttyS7") or die "no port: $!";
$port->baudrate(115200);
$port->write_settings;
$port->write("hello");
$port->read_const_time(5000);
my ($count, $text) = $port->read(5);
print "$text\\n";"""
RUBY = """
File.open("/dev/ttyS7", "r+b") do |port|
  port.sync = true
  port.write("hello")
  puts port.readpartial(5)
end"""
TCL = """set port [open /dev/ttyS7 r+]
fconfigure $port -mode 115200,n,8,1 -translation binary -buffering none
puts -nonewline $port hello
puts [read $port 5]"""
PHP = """
$port = fopen("/dev/ttyS7", "r+b");
fwrite($port, "hello");
echo fread($port, 5);"""
ERLANG = """
{ok, Port} = file:open("/dev/ttyS7", [read, write, raw, binary]),
ok = file:write(Port, "hello"),
{ok, Text} = file:read(Port, 5),
io:format("~s~n", [Text]),
halt()."""
EXPECT = """
spawn -noecho -open [open /dev/ttyS7 r+]
stty raw -echo < /dev/ttyS7
send hello
expect world
puts " seen\""""


def _python(package: str, code: str, **more: Any) -> Program:
    """A script on a package of PyPI."""
    fields = {"name": package, "dialog": HELLO, "shows": "world", **more}
    command = f"{PYTHON} -c '{code}'"
    return Program(package=f"pip:{package}", command=command, act=acts.dialog, **fields)


EXTRAS = (
    Program(
        "esptool", "pip:esptool",
        f"{PYTHON} -m esptool --port /dev/ttyS7 --before no-reset --connect-attempts 1 chip-id",
        lock="flock", status=2, act=acts.dialog, dialog=((rb".*\xc0\x00\x08", b""),),
        shows="No serial data received", remarks="asks; no chip answers",
    ),
    Program(
        "mpremote", "pip:mpremote", f"{PYTHON} -m mpremote connect /dev/ttyS7 repl",
        ("C-]",), "Connected to MicroPython", lock="flock",
    ),
    Program(
        "PlatformIO's monitor", "pip:platformio",
        f"{PYTHON} -m platformio device monitor -p /dev/ttyS7 -b 115200",
        ("C-c",), "--- Quit:", lock="flock",
    ),
    _python("pymodbus", PYMODBUS, lock="flock", dialog=MODBUS, shows="[4660]"),
    _python("minimalmodbus", MINIMALMODBUS, dialog=MODBUS, shows="[4660, 4660, 4660]",
            remarks="opened for each call"),
    _python("aioserial", AIOSERIAL),
    _python("pyserial-asyncio", ASYNCIO.format("serial_asyncio")),
    _python("pyserial-asyncio-fast", ASYNCIO.format("serial_asyncio_fast")),
    _python("serialx", SERIALX, lock="flock"),
    Program("labgrid's SerialDriver", "pip:labgrid",
            f"{PYTHON.replace('/python ', '/labgrid ')} -c '{LABGRID}'", act=acts.dialog,
            dialog=HELLO, shows="world", remarks="activated twice"),
    Program("node serialport 13", "npm:node13", NODE.format(13), lock="flock", act=acts.dialog,
            dialog=HELLO, shows="world"),
    Program("node serialport 12", "npm:node12", NODE.format(12), lock="flock", act=acts.dialog,
            dialog=HELLO, shows="world"),
    Program(
        "avrdude", "avrdude", "avrdude -q -p m328p -c arduino -P /dev/ttyS7 -b 115200",
        act=acts.dialog, dialog=STK500, shows="device signature = 0x1e950f",
        remarks="a bootloader answers",
    ),
    Program(
        "stm32flash", "stm32flash", "stm32flash -m 8n1 /dev/ttyS7",
        act=acts.dialog, dialog=AN3155, shows="STM32F10xxx Medium-density",
        remarks="a bootloader answers; `-m 8n1`, because a pty has no parity",
    ),
    Program(
        "flashrom", "flashrom", "flashrom -p serprog:dev=/dev/ttyS7:115200", status=1,
        act=acts.dialog, dialog=((rb"\x00{8}", b""),), shows="cannot synchronize protocol",
        remarks="asks; no programmer answers",
    ),
    Program(
        "mbpoll", "mbpoll", "mbpoll -m rtu -a 1 -b 115200 -P none -r 1 -t 4 -1 /dev/ttyS7",
        act=acts.dialog, dialog=MODBUS, shows="4660",
    ),
    Program(
        "rigctl", "libhamlib-utils", "rigctl -m 2014 -r /dev/ttyS7 -s 115200 f",
        act=acts.dialog, dialog=KENWOOD, shows="14250000", remarks="a radio answers",
    ),
    Program(
        "gammu", "gammu",
        "sh -c 'printf \"[gammu]\\nport=/dev/ttyS7\\nconnection=at115200\\n\" >gammu && "
        "exec gammu -c gammu identify'",
        act=acts.dialog, dialog=MODEM, shows="123456789012345", remarks="a modem answers",
    ),
    Program(
        "NUT", "nut-server",
        "env NUT_STATEPATH=. NUT_ALTPIDPATH=. /lib/nut/nutdrv_qx -s ups -d 1 -x port=/dev/ttyS7 "
        "-x protocol=megatec",
        lock="flock", act=acts.dialog, dialog=MEGATEC, shows="output.voltage: 226.0",
        remarks="a UPS answers",
    ),
    Program("Perl Device::SerialPort", "libdevice-serialport-perl", f"perl -e '{PERL}'",
            act=acts.dialog, dialog=HELLO, shows="world"),
    Program("Ruby", "ruby", f"ruby -e '{RUBY}'", act=acts.dialog, dialog=LINE, shows="world"),
    Program("Tcl", "tcl", f"sh -c 'exec tclsh <<END\n{TCL.replace('$', chr(92) + '$')}\nEND'",
            act=acts.dialog, dialog=HELLO, shows="world"),
    # They set nothing up, so the far end's answer is a line.
    Program("PHP", "php-cli", f"php -r '{PHP}'", act=acts.dialog, dialog=LINE, shows="world"),
    Program("Erlang", "erlang-base", f"erl -noshell -eval '{ERLANG}'", act=acts.dialog,
            dialog=LINE, shows="world"),
    # Without a port on the command line a launcher looks at no open for reading as Go's and Rust's.
    Program("Go", "golang-go", f"{COMPILED}/port /dev/ttyS7", act=acts.dialog, dialog=LINE,
            shows="world", remarks="a static program; opened twice"),
    Program("Go's tarm/serial", "golang-github-tarm-serial-dev", f"{COMPILED}/tarm /dev/ttyS7",
            act=acts.dialog, dialog=HELLO, shows="world"),
    Program("Rust", "rustc", f"{COMPILED}/rust /dev/ttyS7", act=acts.dialog, dialog=LINE,
            shows="world", remarks="opened twice"),
    Program("Java", "default-jdk-headless", f"{JAVA} Streams /dev/ttyS7", act=acts.dialog,
            dialog=LINE, shows="world", remarks="opened twice"),
    Program("jSSC", "libjssc-java", f"{JAVA} Jssc /dev/ttyS7", lock="TIOCEXCL",
            act=acts.dialog, dialog=HELLO, shows="world"),
    Program("chat", "ppp", "sh -c 'exec chat -V \"\" hello world </dev/ttyS7 >/dev/ttyS7'",
            act=acts.dialog, dialog=LINE, remarks="opened twice"),
    Program("expect", "expect", f"expect -c '{EXPECT}'", act=acts.dialog, dialog=HELLO,
            shows="world seen", remarks="opened twice"),
    Program("PuTTY", "putty", "putty -serial /dev/ttyS7 -sercfg 115200,8,n,1,N", ready="putty",
            act=windows.converse, status=143, remarks="under Xvfb"),
)  # fmt: skip
