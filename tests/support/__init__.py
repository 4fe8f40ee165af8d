"""Code that the tests of several folders share, one idea a file."""
