"""A serial port of this machine, from ttybroker: a resource and a driver for labgrid.

Name this file under `imports:` in the environment, as env-local.yaml does. Tried with 26.0.1.
"""

from typing import ClassVar

import attr
from labgrid import target_factory
from labgrid.driver import SerialDriver
from labgrid.resource import Resource, SerialPort

from ttybroker import open_tty


@target_factory.reg_resource
@attr.s(eq=False)
class BrokeredSerialPort(SerialPort, Resource):
    """A port by its name, such as "ttyS0" or an alias of the policy's.

    wait: seconds to queue for a busy port. yields: "user" or "all", to whom it is lent. label: what
    others read beside the holder; if there is none, the target's name.
    """

    wait = attr.ib(default=None, converter=attr.converters.optional(float))
    yields = attr.ib(default="", validator=attr.validators.in_(("", "user", "all")))
    label = attr.ib(default="", validator=attr.validators.instance_of(str))

    def __attrs_post_init__(self):
        super().__attrs_post_init__()
        if self.port is None:
            raise ValueError("BrokeredSerialPort must be configured with a port")


@target_factory.reg_driver
@attr.s(eq=False)
class BrokeredSerialDriver(SerialDriver):
    """labgrid's SerialDriver, whose port is leased while it is active.

    Activating it raises a ttybroker.BrokerError, which is a serial.SerialException. While the port
    is lent, reads raise pexpect's TIMEOUT and writes ttybroker.PortLent.
    """

    bindings: ClassVar = {"port": "BrokeredSerialPort"}

    def on_activate(self):
        self.open()

    def open(self):
        """Lease the port, unless it is open already."""
        if not self.status:
            port = self.port
            label = port.label or f"labgrid target {self.target.name}"
            how = {"wait": port.wait, "yields": port.yields, "label": label}
            self.serial = open_tty(port.port, port.speed, **how)
            self.status = 1
