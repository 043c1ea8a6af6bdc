/* Plain rows as a base matrix (models/schema.py): read(names, tables, rows, matrix). */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>

static const double LARGEST = 1e300;  /* as models/values.py has it */

enum { FAILED = -1, NOT_PLAIN, PLAIN, ODD };

/* A value as the base matrix has it; ODD for a missing one and for a level that is not known. */
static int value_of(PyObject *value, PyObject *table, double *number)
{
    PyObject *code;
    if (value == Py_None) {
        *number = Py_NAN;
        return ODD;
    }
    if (table == Py_None) {
        if (PyFloat_CheckExact(value)) {
            *number = PyFloat_AsDouble(value);
        } else if (PyLong_CheckExact(value)) {
            *number = PyLong_AsDouble(value);
            if (*number == -1.0 && PyErr_Occurred()) {
                PyErr_Clear();  /* too large for a float */
                return NOT_PLAIN;
            }
        } else {
            return NOT_PLAIN;
        }
        return fabs(*number) <= LARGEST ? PLAIN : NOT_PLAIN;  /* nor NaN */
    }
    if (!PyUnicode_CheckExact(value))
        return NOT_PLAIN;
    if ((code = PyDict_GetItemWithError(table, value))) {
        *number = PyFloat_AsDouble(code);
        return PLAIN;
    }
    *number = (double)PyDict_Size(table);
    return PyErr_Occurred() ? FAILED : ODD;
}

static PyObject *rows_read(PyObject *names, PyObject *tables, PyObject *rows, const Py_buffer *matrix)
{
    const Py_ssize_t count = PyList_Size(rows), width = PyTuple_Size(names);
    double *number = matrix->buf;
    long odd = 0;
    if (PyTuple_Size(tables) != width || matrix->len != count * width * (Py_ssize_t)sizeof *number)
        return PyErr_Format(PyExc_ValueError, "%zd rows of %zd inputs do not fit", count, width);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *row = PyList_GetItem(rows, i);
        if (!PyDict_CheckExact(row))
            Py_RETURN_NONE;
        for (Py_ssize_t j = 0; j < width; j++, number++) {
            PyObject *value = PyDict_GetItemWithError(row, PyTuple_GetItem(names, j));
            const int found = value ? value_of(value, PyTuple_GetItem(tables, j), number) : PyErr_Occurred() ? FAILED : NOT_PLAIN;
            if (found == FAILED)
                return NULL;
            if (found == NOT_PLAIN)
                Py_RETURN_NONE;
            odd += found == ODD;
        }
    }
    return PyLong_FromLong(odd);
}

static PyObject *read_rows(PyObject *self, PyObject *arguments)
{
    PyObject *names, *tables, *rows, *matrix, *done;
    Py_buffer written;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "O!O!O!O:read", &PyTuple_Type, &names, &PyTuple_Type, &tables, &PyList_Type, &rows, &matrix))
        return NULL;
    if (PyObject_GetBuffer(matrix, &written, PyBUF_CONTIG))
        return NULL;
    done = rows_read(names, tables, rows, &written);
    PyBuffer_Release(&written);
    return done;
}

static PyMethodDef methods[] = {
    {"read", read_rows, METH_VARARGS, "read(names, tables, rows, matrix): dicts as float64 (rows, names); how many values are missing or of no known level, None where a row is not plain."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "models._rows", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__rows(void)
{
    return PyModuleDef_Init(&module);
}
