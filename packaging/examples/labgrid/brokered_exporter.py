"""labgrid-exporter, but its serial ports come from ttybroker.

The options are those of labgrid-exporter. Each ser2net runs under `ttybroker run`, and the lease
says for which place it is. Needs ser2net 4.2. What it replaces is private to labgrid: tried with
26.0.1.
"""

import os
import subprocess

import attr
from labgrid.remote import exporter
from labgrid.util import get_free_port

AT_ONCE = 0.5  # seconds; as labgrid has it


@attr.s(eq=False)
class BrokeredSerialPortExport(exporter.SerialPortExport):
    """A serial port for a place. ser2net opens it when a client connects."""

    def _start(self, start_params):
        path, place = start_params["path"], self.acquired
        self.port = get_free_port()
        config = (
            f"connection: &con01#  accepter: telnet(rfc2217,mode=server),tcp,{self.port}",
            f"  connector: serialdev(nouucplock=true),{path},{self.local.speed}n81,local",
            "  options:",
            "    max-connections: 10",
        )
        words = [word for line in config for word in ("-Y", line)]
        run = ["ttybroker", "run", "--for", f"labgrid place {place}", os.path.basename(path), "--"]
        self.child = subprocess.Popen([*run, self.ser2net_bin, "-d", "-n", *words])
        try:
            self.child.wait(AT_ONCE)
        except subprocess.TimeoutExpired:
            return
        raise exporter.ExporterError(f"ser2net for {path} exited immediately")


for name in ("RawSerialPort", "USBSerialPort"):
    exporter.exports[name] = BrokeredSerialPortExport

if __name__ == "__main__":
    exporter.main()
