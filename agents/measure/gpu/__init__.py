"""What only a GPU can show: tests, throughput, the speed table and CIFAR, within minutes and into one folder."""
