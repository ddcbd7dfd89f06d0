"""The programs that deployments consist of: copied as they are, one of the ``run_with`` files as runtime.py.

They import ``decoding`` and ``runtime``, which lie beside them in a deployment and not here, and nothing of tlopt.
``ending`` alone does: decoding.py has what is in it.
"""
