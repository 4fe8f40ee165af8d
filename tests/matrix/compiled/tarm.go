// github.com/tarm/serial
package main

import (
	"fmt"
	"io"
	"log"
	"os"

	"github.com/tarm/serial"
)

func main() {
	port, err := serial.OpenPort(&serial.Config{Name: os.Args[1], Baud: 115200})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := port.Write([]byte("hello")); err != nil {
		log.Fatal(err)
	}
	text := make([]byte, 5)
	_, err = io.ReadFull(port, text)
	fmt.Printf("%q %v\n", text, err)
}
