/* A peer of the bench: a D-Bus service that passes a port's descriptor, as logind passes a device.
 * It checks the caller's uid by the bus's word and nothing else: no policy file, no look at the
 * device, no lock, no lease, no revoke, no log.
 * Usage: bus_service ADDRESS UID DEVICE...; Open("pN") answers with a descriptor of the Nth device */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

static char **devices;
static int count;
static uid_t allowed;

static int may(sd_bus_message *call)
{
	sd_bus_creds *creds = NULL;
	uid_t uid;
	int failed = sd_bus_query_sender_creds(call, SD_BUS_CREDS_EUID, &creds);
	if (failed >= 0)
		failed = sd_bus_creds_get_euid(creds, &uid);
	sd_bus_creds_unref(creds);
	return failed >= 0 && uid == allowed;
}

static int on_open(sd_bus_message *call, void *data, sd_bus_error *error)
{
	const char *name;
	(void)data;
	int failed = sd_bus_message_read(call, "s", &name);
	if (failed < 0)
		return failed;
	int number = name[0] == 'p' ? atoi(name + 1) : -1;
	if (!may(call) || number < 0 || number >= count)
		return sd_bus_error_set_errno(error, EACCES);
	int port = open(devices[number], O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (port < 0)
		return sd_bus_error_set_errno(error, errno);
	failed = sd_bus_reply_method_return(call, "h", port);
	close(port);
	return failed;
}

static const sd_bus_vtable table[] = {
	SD_BUS_VTABLE_START(0),
	SD_BUS_METHOD("Open", "s", "h", on_open, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_VTABLE_END,
};

int main(int argc, char **argv)
{
	sd_bus *bus;
	if (argc < 4)
		return 2;
	allowed = (uid_t)atoi(argv[2]);
	devices = argv + 3;
	count = argc - 3;
	if (sd_bus_new(&bus) < 0 || sd_bus_set_address(bus, argv[1]) < 0 ||
	    sd_bus_set_bus_client(bus, 1) < 0 || sd_bus_negotiate_fds(bus, 1) < 0 ||
	    sd_bus_start(bus) < 0 ||
	    sd_bus_add_object_vtable(bus, NULL, "/bench", "bench.Ports", table, NULL) < 0 ||
	    sd_bus_request_name(bus, "bench.C", 0) < 0)
		return 1;
	puts("ready");
	fflush(stdout);
	for (;;) {
		int done = sd_bus_process(bus, NULL);
		if (done < 0)
			return 1;
		if (done == 0)
			sd_bus_wait(bus, UINT64_MAX);
	}
}
