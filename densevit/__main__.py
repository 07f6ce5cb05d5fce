"""`python -m densevit`."""

from densevit.cli.main import console_main

console_main()
