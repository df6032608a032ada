"""What the files and their names say: pure, without Scrapy and without stores."""
