"""The computer: whole files, processes, devices, several machines that train as one."""
