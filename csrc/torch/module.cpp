// The empty Python module whose import loads this library; each op registers itself in its own
// file.
#include <Python.h>

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef def = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&def);
}
