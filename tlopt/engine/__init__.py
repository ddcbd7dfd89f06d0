"""TensorRT engines: the library's kinds behind one API, what can be built here, and the build itself."""
