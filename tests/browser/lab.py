"""JupyterLab as `jupyter lab` starts it, but for its kernels: forks of a process that knows what notebooks import."""

if __name__ == "__main__":  # a fork reads this file, too, and shall load nothing of it
    import sys
    from functools import partial

    from jupyter_client.provisioning import local_provisioner
    from jupyterlab.labapp import main

    if sys.platform == "linux":
        from forked_kernels import OF_NOTEBOOKS, launch_kernel, server_with

        local_provisioner.launch_kernel = partial(launch_kernel, server_with(*OF_NOTEBOOKS))
    sys.exit(main())
