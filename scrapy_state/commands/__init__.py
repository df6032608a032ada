"""The command ``scrapy state``; Scrapy loads its module with each of its own commands, so that one is light."""
