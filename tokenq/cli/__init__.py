"""The command line: parse, load, call one room, print. No arithmetic; whatever imports torch is imported inside."""
