"""A real tritonserver on this machine: where it is, how it is started, asked, loaded and stopped.

The server lives in an environment of its own, because it needs another NumPy than tlopt. The scripts in `inside` run
there, and import nothing of tlopt.
"""
