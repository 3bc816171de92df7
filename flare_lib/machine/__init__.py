"""The computer: files that are never half-written, processes, devices, several machines that train as one."""
