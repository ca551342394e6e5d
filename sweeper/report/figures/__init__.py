"""The figures of a report: each module computes the data of one figure and draws it."""
