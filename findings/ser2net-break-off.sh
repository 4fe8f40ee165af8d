#!/bin/sh
# Software:  ser2net 4.3.11-1, libgensio4 2.6.2-4 (Debian 12).
# Expected:  The answer to SET-CONTROL has the value that is in force: 5 is "Set BREAK State ON", 6
#            is "Set BREAK State OFF" (RFC 2217, section 3).
# Seen:      To 6 it answers 5, and to a question (4) after that, too. The break itself ends: strace
#            shows TIOCCBRK. A client that compares takes it for a refusal, as pyserial does:
#            send_break() raises ValueError, "remote rejected value for option 'control'".
# Output:    on (5):   answer 5
#            off (6):  answer 5
#            ask (4):  answer 5
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 2' HUP INT TERM
(
    cd "$dir" &&
        apt-get -qq -o APT::Sandbox::User=root download ser2net=4.3.11-1 libgensio4=2.6.2-4 \
            libyaml-0-2 libavahi-client3 libavahi-common3 libsctp1 libwrap0 libnsl2 libtirpc3 &&
        for deb in *.deb; do dpkg -x "$deb" .; done
) || exit 2
LD_LIBRARY_PATH=$(echo "$dir"/usr/lib/*-linux-*):$(echo "$dir"/lib/*-linux-*)
export LD_LIBRARY_PATH
/usr/bin/python3 - "$dir" <<'END'
import os
import pty
import socket
import subprocess
import sys
import time
import tty

far, near = pty.openpty()
tty.setraw(near)
with socket.create_server(("127.0.0.1", 0)) as free:
    tcp = free.getsockname()[1]
path = f"{sys.argv[1]}/ser2net.yaml"
with open(path, "w") as file:
    file.write(f"connection: &port\n  accepter: telnet(rfc2217),tcp,127.0.0.1,{tcp}\n")
    file.write(f"  connector: serialdev,{os.ttyname(near)},115200n81,local\n")
server = subprocess.Popen([f"{sys.argv[1]}/usr/sbin/ser2net", "-n", "-u", "-c", path],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    for _ in range(100):
        try:
            client = socket.create_connection(("127.0.0.1", tcp), 10)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    else:
        sys.exit(2)
    heard = b""
    client.sendall(bytes([255, 251, 44]))  # IAC WILL COM-PORT-OPTION
    answers = []
    for name, value in (("on (5): ", 5), ("off (6):", 6), ("ask (4):", 4)):
        client.sendall(bytes([255, 250, 44, 5, value, 255, 240]))  # SET-CONTROL
        while len(parts := heard.split(bytes([255, 250, 44, 105]))) < 2 or len(parts[1]) < 3:
            heard += (data := client.recv(1000))
            if not data:
                sys.exit(2)
        answers.append(parts[1][0])
        print(f"{name}  answer {answers[-1]}")
        heard = b""
finally:
    server.kill()
sys.exit(answers != [5, 5, 5])
END
