"""What tracking needs of the outside.

Each port has a twin in memory (`adapters.memory`), and one contract test over both.
"""
