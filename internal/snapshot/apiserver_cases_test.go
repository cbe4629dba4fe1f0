package snapshot_test

import "k8s.io/apimachinery/pkg/types"

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: checkout, labels: {app: checkout}}
spec:
  replicas: 2
  selector: {matchLabels: {app: checkout}}
  template:
    metadata: {labels: {app: checkout}}
    spec:
      nodeSelector: {zone: a}
      containers:
      - name: checkout
        image: shop/checkout:1
        args: [--port, "8080"]
        env: [{name: A, value: "1"}, {name: B, value: "2"}, {name: C, value: "3"}]
        ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}, {name: dns-tcp, containerPort: 53, protocol: TCP}]
        volumeMounts: [{name: config, mountPath: /etc/config}, {name: tmp, mountPath: /tmp}]
      - {name: proxy, image: "shop/proxy:1"}
      volumes:
      - {name: config, configMap: {name: checkout-config}}
      - {name: tmp, emptyDir: {}}
`

const service = `
apiVersion: v1
kind: Service
metadata: {name: checkout}
spec:
  selector: {app: checkout}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
`

const configMap = `
apiVersion: v1
kind: ConfigMap
metadata: {name: checkout-config}
data: {CACHE_TTL: "5", odd.name: "x", big.txt: "one\ntwo\n"}
binaryData: {blob: AAEC}
`

const widget = `
apiVersion: example.org/v1
kind: Widget
metadata: {name: checkout}
spec:
  routes:
  - {host: a, port: 1, weight: 0.5, rules: [one, two]}
  - {host: a, port: 2, weight: 1}
  - {host: b, port: 1, nullable: null}
  tags: [red, green, blue]
  atomicList: [{k: 1}, {k: 2}]
  atomicMap: {a: 1, b: 2}
  free: {list: [{name: x, v: 1}, {name: z, v: 2}], deep: {er: 1}}
`

// Each case is a patch to one of the objects.
var changes = []struct {
	name, object string
	patchType    types.PatchType
	patch        string
}{
	{"image", deployment, types.StrategicMergePatchType, `{spec: {template: {spec: {containers: [{name: checkout, image: "shop/checkout:2"}]}}}}`},
	{"env add and change", deployment, types.StrategicMergePatchType, `{spec: {template: {spec: {containers: [{name: checkout, env: [{name: B, value: "20"}, {name: D, value: "4"}]}]}}}}`},
	{"env remove first and last", deployment, types.StrategicMergePatchType, `{spec: {template: {spec: {containers: [{name: checkout, env: [{name: A, $patch: delete}, {name: C, $patch: delete}]}]}}}}`},
	{"env remove all", deployment, types.MergePatchType, `{spec: {template: {spec: {containers: [{name: checkout, image: i, env: null}, {name: proxy, image: i}]}}}}`},
	{"env reorder", deployment, types.JSONPatchType, `[{op: move, from: /spec/template/spec/containers/0/env/2, path: /spec/template/spec/containers/0/env/0}]`},
	{"env insert in the middle", deployment, types.JSONPatchType, `[{op: add, path: /spec/template/spec/containers/0/env/1, value: {name: AB, value: "x"}}]`},
	{"env with the same name twice", deployment, types.JSONPatchType, `[{op: add, path: /spec/template/spec/containers/0/env/1, value: {name: C, value: "x"}}]`},
	{"env to a reference", deployment, types.JSONPatchType, `[{op: replace, path: /spec/template/spec/containers/0/env/1, value: {name: B, valueFrom: {fieldRef: {fieldPath: metadata.name}}}}]`},
	{"args", deployment, types.MergePatchType, `{spec: {template: {spec: {containers: [{name: checkout, image: i, args: [a, b, c]}, {name: proxy, image: i}]}}}}`},
	{"ports with two keys", deployment, types.JSONPatchType, `[{op: remove, path: /spec/template/spec/containers/0/ports/1}, {op: replace, path: /spec/template/spec/containers/0/ports/1/name, value: domain}]`},
	{"container added first", deployment, types.JSONPatchType, `[{op: add, path: /spec/template/spec/containers/0, value: {name: first, image: i}}]`},
	{"container removed", deployment, types.StrategicMergePatchType, `{spec: {template: {spec: {containers: [{name: proxy, $patch: delete}]}}}}`},
	{"container renamed", deployment, types.JSONPatchType, `[{op: replace, path: /spec/template/spec/containers/0/name, value: renamed}]`},
	{"volumes", deployment, types.JSONPatchType, `[{op: remove, path: /spec/template/spec/volumes/0}, {op: remove, path: /spec/template/spec/containers/0/volumeMounts/0}]`},
	{"resources and probe created", deployment, types.StrategicMergePatchType, `{spec: {template: {spec: {containers: [{name: checkout, resources: {limits: {cpu: 500m}}, livenessProbe: {httpGet: {path: /, port: 8080}}}]}}}}`},
	{"strategy replaced", deployment, types.MergePatchType, `{spec: {strategy: {type: Recreate, rollingUpdate: null}}}`},
	{"node selector", deployment, types.MergePatchType, `{spec: {template: {spec: {nodeSelector: {zone: null, disk: ssd}}}}}`},
	{"annotations and labels created", deployment, types.MergePatchType, `{metadata: {annotations: {"example.org/note": "~ü"}, labels: {app: null}}}`},
	{"several places", deployment, types.MergePatchType, `{spec: {replicas: 5, paused: true, template: {metadata: {annotations: {"example.org/b": b}}}}}`},
	{"service port added", service, types.StrategicMergePatchType, `{spec: {ports: [{name: metrics, port: 9090}]}}`},
	{"service port removed", service, types.JSONPatchType, `[{op: remove, path: /spec/ports/1}]`},
	{"service target port and selector", service, types.MergePatchType, `{spec: {selector: {app: null, tier: x}, sessionAffinity: ClientIP}}`},
	{"data changed, added, removed", configMap, types.MergePatchType, `{data: {CACHE_TTL: "60", new: "", odd.name: null}}`},
	{"data removed as a whole", configMap, types.MergePatchType, `{data: null, binaryData: {blob: null, other: AQ==}}`},
	{"binary data", configMap, types.MergePatchType, `{binaryData: {blob: BAUG}}`},
	{"text", configMap, types.MergePatchType, `{data: {big.txt: "one\n2\nthree\n"}}`},
	{"widget item", widget, types.JSONPatchType, `[{op: replace, path: /spec/routes/0/weight, value: 0.75}, {op: remove, path: /spec/routes/1}]`},
	{"widget null and integer float", widget, types.JSONPatchType, `[{op: remove, path: /spec/routes/2/nullable}, {op: replace, path: /spec/routes/1/weight, value: 2}]`},
	{"widget set", widget, types.JSONPatchType, `[{op: remove, path: /spec/tags/1}, {op: add, path: /spec/tags/0, value: pink}]`},
	{"widget atomic", widget, types.MergePatchType, `{spec: {atomicList: [{k: 3}], atomicMap: {b: null, c: 1}}}`},
	{"widget without schema", widget, types.JSONPatchType, `[{op: remove, path: /spec/free/list/0}, {op: remove, path: /spec/free/deep/er}]`},
	{"widget routes removed", widget, types.JSONPatchType, `[{op: remove, path: /spec/routes}]`},
	{"widget routes emptied", widget, types.JSONPatchType, `[{op: replace, path: /spec/routes, value: []}]`},
}

const widgetCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {kind: Widget, listKind: WidgetList, plural: widgets, singular: widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              routes:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [host, port]
                items:
                  type: object
                  required: [host, port]
                  properties:
                    host: {type: string}
                    port: {type: integer}
                    weight: {type: number}
                    nullable: {type: string, nullable: true}
                    rules: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              atomicList: {type: array, x-kubernetes-list-type: atomic, items: {type: object, properties: {k: {type: integer}}}}
              atomicMap: {type: object, x-kubernetes-map-type: atomic, additionalProperties: {type: integer}}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
`

const autoscaler = `
apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: checkout}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: checkout}, maxReplicas: 5, targetCPUUtilizationPercentage: 80}
`
