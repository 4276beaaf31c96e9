"""A container engine, base images and a registry for the tests, also on a machine that has none of them.

    python3 -m tests.rig up          make them available: what answers is used, what is missing is started or built
    python3 -m tests.rig down        stop what `up` started; images stay in the cache
    python3 -m tests.rig run CMD...  `up`, CMD, then stop what this run started; the exit code is CMD's

The rig starts an engine on Debian, as root, from Debian's own packages. With CONTAINERD_IMAGE_STORE=yes it keeps
images as Docker does by default since version 29. It pulls base images where that works. Elsewhere it builds them from
Debian's packages, under the names that the template's Dockerfiles use. It needs uv and Python's standard library.
"""
